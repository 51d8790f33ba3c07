"""Every reward is called once before a model is loaded: what it cannot do is better told then than minutes later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rlr_core.config import Size
from rlr_core.errors import RewardError
from rlr_core.rewards import PUBLISHED, REWARDS, Reward, Scores
from rlr_core.trainer.materials import Rewards
from rlr_core.trainer.seeding import seeded

GRAIN = 0.02
"""Standard deviation of the pixels: a picture of one colour alone may well have no score, as where its contrast divides."""


def probe(rewards: Rewards, size: Size, device: torch.device, prompts: Sequence[str]) -> None:
    """Let every reward score two grey pictures of a run's size, with two of its `prompts`.

    Raises `RewardError`, which names the setting that the reward is from, where it raises, or returns anything but a score for
    each picture, or none of them is finite.
    """
    pictures = _grey(size, device)
    for setting, reward in _parties(rewards):
        try:
            with seeded(0):
                scores = _asked(reward, pictures, prompts)
        except RewardError as error:
            if isinstance(error.__cause__, torch.OutOfMemoryError):
                continue  # that says nothing of the reward, and the run knows how to do with less
            raise _of(setting, reward, error) from error
        _refuse_nothing_finite(setting, reward, scores)


def _grey(size: Size, device: torch.device) -> Tensor:
    """(2, 3, H, W)."""
    width, height = size
    grain = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    return (0.5 + GRAIN * grain).clamp(0, 1).to(device)


def _parties(rewards: Rewards) -> Iterator[tuple[str, Reward]]:
    """By the setting that each is from."""
    yield "reward.name", rewards.trained
    if rewards.held_out is not rewards.trained:
        yield "reward.held_out", rewards.held_out
    for reward in rewards.watched.values():
        yield "reward.watch", reward


def _asked(reward: Reward, pictures: Tensor, prompts: Sequence[str]) -> Scores:
    """Its scores; what says of itself that it is differentiable, and has no network of ours, is asked for the graph, too."""
    if reward.differentiable and not reward.networks:
        with torch.enable_grad():
            reward(pictures.clone().requires_grad_(), prompts)
        reward.forget()
    return reward.measure(pictures, prompts)


def _of(setting: str, reward: Reward, error: RewardError) -> RewardError:
    """The same error with the setting; of a reward that is not the user's own, another one is what can be set."""
    got, expected, do = error.parts
    if reward.name in (*REWARDS, *PUBLISHED):
        do = f"set {setting} to another reward" + (
            ", or leave it at auto" if setting == "reward.held_out" else ""
        )
    return RewardError(f"{setting}: {got}", expected, do)


def _refuse_nothing_finite(setting: str, reward: Reward, scores: Scores) -> None:
    parts = {f"the part '{name}' of {reward.name}": values for name, values in scores.parts.items()}
    for name, values in {**parts, f"the reward '{reward.name}'": scores.total}.items():
        if not values.isfinite().any():
            raise RewardError(
                f"{setting}: {name} scored two grey pictures {', '.join(f'{float(value):g}' for value in values)}",
                "finite numbers",
                f"correct the reward, or set {setting} to another one",
            )
