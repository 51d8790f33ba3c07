"""Pictures that only measure: of held-out prompts, at fixed seeds that training never uses."""

from __future__ import annotations

import torch
from torch import Tensor

from rlr_core.chain.noise import derive_seed
from rlr_core.rewards import Mix, statistics
from rlr_core.trainer.events import Evaluation, Preview
from rlr_core.trainer.prompts import deal
from rlr_core.trainer.sampling import score
from rlr_core.trainer.setup import Setup

CALIBRATION = 32
"""Pictures that a mix takes the scale of its parts from."""


def preview(setup: Setup, iteration: int) -> Preview:
    """Paint and score a preview."""
    prompts, seeds, images = _held_out(setup, setup.config.output.previews, "preview")
    scores, watched = score(setup.held_out, images, prompts), _watched(setup, images, prompts)
    return Preview(iteration, prompts, seeds, images, scores, watched, statistics(images))


def evaluation(setup: Setup, when: str, iteration: int, count: int) -> Evaluation:
    """Paint the first `count` pairs of the evaluation and score them by every reward."""
    prompts, seeds, images = _held_out(setup, count, "evaluation")
    reward = setup.reward
    parts = _parts(reward, images, prompts) if isinstance(reward, Mix) else {}
    return Evaluation(
        when=when,
        prompts=prompts,
        seeds=seeds,
        images=images,
        scores=score(setup.held_out, images, prompts),
        rewards=reward.total(parts) if isinstance(reward, Mix) else score(reward, images, prompts),
        iteration=iteration,
        parts=parts,
        watched=_watched(setup, images, prompts),
        statistics=_statistics(images, setup.config.alarm.pictures),
    )


def _statistics(images: Tensor, first: int) -> dict[str, Tensor]:
    """Of the first pictures and of the others apart, so that the first ones' diversity is their own."""
    groups = [statistics(group) for group in (images[:first], images[first:]) if len(group)]
    return {name: torch.cat([group[name] for group in groups]) for name in groups[0]}


def calibrate(setup: Setup) -> None:
    """Give a mix the scale that it lacks, from pictures of training prompts."""
    if isinstance(setup.reward, Mix) and not setup.reward.calibrated:
        seed = setup.config.training.seed
        prompts = deal(setup.prompts, CALIBRATION, 0, seed)
        seeds = [derive_seed(seed, "calibration", j) >> 32 for j in range(CALIBRATION)]
        setup.reward.calibrate(_parts(setup.reward, setup.painter(prompts, seeds), prompts))


def _parts(mix: Mix, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
    return {name: score(part, images, prompts) for name, part in mix.parts.items()}


def _watched(setup: Setup, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
    return {name: score(reward, images, prompts) for name, reward in setup.watched.items()}


def _held_out(setup: Setup, count: int, purpose: str) -> tuple[list[str], list[int], Tensor]:
    prompts = deal(setup.held_out_prompts, count, 0, 0)
    seeds = [derive_seed(purpose, j) >> 32 for j in range(count)]
    return prompts, seeds, setup.painter(prompts, seeds)
