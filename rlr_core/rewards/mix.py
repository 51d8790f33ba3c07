"""A weighted mix of rewards, each brought to a common scale.

    R = Σ_k w_k (R_k − m_k) / s_k

m_k and s_k are given, or are the mean and the standard deviation of R_k over pictures painted at the start, so that 0 is where
training begins and a weight counts standard deviations. A running s_k goes on to collect every picture that is scored in
training; m_k, which moves no gradient, stays. What is measured outside training always uses the scale of the start, so that
scores of one run can be compared, and moves no scale.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlr_core.config import RewardConfig
from rlr_core.errors import RewardError
from rlr_core.rewards.library import load_reward
from rlr_core.rewards.reward import Reward, Scores, Sum, Wrap, alone


@dataclass
class Spread:
    """Count, mean and summed squared deviation of scores."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, scores: Tensor, total: Sum = alone) -> Spread:
        """Of scores (n,) and, with `total`, those of the other processes; of none at all, the empty one."""
        own, count = scores.double(), int(total(torch.tensor(len(scores))))
        if not count:
            return cls()
        mean = total(own.sum()) / count
        return cls(count, float(mean), float(total((own - mean).square().sum())))

    def add(self, more: Spread) -> None:
        """Take up the spread of more scores (Welford's method, batch by batch)."""
        count, shift = self.count + more.count, more.mean - self.mean
        self.squares += more.squares + shift**2 * self.count * more.count / count
        self.mean += shift * more.count / count
        self.count = count

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return math.sqrt(self.squares / (self.count - 1))


class Mix(Reward):
    """Several rewards as one.

    Before `calibrate` every part without a given scale counts as it is (mean 0, spread 1).

    Attributes:
        name: weights and parts; those without a gradient are called so.
        differentiable: if every part is.
        parts: by name.
        weights: of each part.
        start: mean and spread of each part, of the start or as given.
    """

    def __init__(
        self,
        parts: Mapping[str, Reward],
        weights: Mapping[str, float],
        given: Mapping[str, tuple[float, float]],
        *,
        running: bool,
    ):
        self.parts, self.weights, self.start = dict(parts), dict(weights), dict(given)
        self.name = f"mix: {' + '.join(map(self._term, parts))}"
        self.differentiable = all(part.differentiable for part in parts.values())
        self.networks = tuple(network for part in parts.values() for network in part.networks)
        self._running = running
        self._spreads: dict[str, Spread] = {}
        self.forget()

    def _term(self, part: str) -> str:
        kind = "" if self.parts[part].differentiable else " (black box)"
        return f"{self.weights[part]:g} {part}{kind}"

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The mix (B,) on the present scale, of images (B, 3, H, W) in [0, 1]; its parts are kept until `settle`."""
        scores = {name: part(images, prompts) for name, part in self.parts.items()}
        for name, values in scores.items():
            self._seen[name].append(values.detach())
        return self._total(scores, self._scale())

    @torch.no_grad()
    def measure(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        """The mix (B,) on the scale of the start, and its parts."""
        scores = {name: part.measure(images, prompts).total for name, part in self.parts.items()}
        return Scores(self._total(scores, self.start), scores)

    def wrapped(self, wrap: Wrap) -> Mix:
        parts = {name: part.wrapped(wrap) for name, part in self.parts.items()}
        made = Mix(parts, self.weights, self.start, running=self._running)
        made.load_state_dict(self.state_dict())
        return made

    def _total(self, scores: Mapping[str, Tensor], scale: Mapping[str, tuple[float, float]]) -> Tensor:
        terms = []
        for name, values in scores.items():
            mean, spread = scale.get(name, (0.0, 1.0))
            terms.append(self.weights[name] * (values - mean) / spread)
        return torch.stack(terms).sum(0)

    def _scale(self) -> dict[str, tuple[float, float]]:
        """Mean and spread that training uses now."""
        now = {name: (self.start[name][0], spread.deviation) for name, spread in self._spreads.items()}
        return {**self.start, **now} if self._running else self.start

    @property
    def calibrated(self) -> bool:
        """Whether every part has its scale."""
        return set(self.start) == set(self.parts)

    def calibrate(self, parts: Mapping[str, Tensor]) -> None:
        spreads = {name: Spread.of(parts[name]) for name in self.parts if name not in self.start}
        for name, spread in spreads.items():
            _check_spread(name, spread)
        self._spreads |= spreads
        self.start |= {name: (spread.mean, spread.deviation) for name, spread in spreads.items()}

    def settle(self, total: Sum = alone) -> dict[str, float]:
        """The mean of each part over what was scored since the last call, which a running scale now takes up."""
        means = {}
        for name, values in self._seen.items():
            scores = torch.cat(values) if values else torch.zeros(0)
            new = Spread.of(scores, total)
            if new.count:
                means[name] = float(total(scores.sum()) / new.count)
            if name in self._spreads and new.count and math.isfinite(new.mean):
                self._spreads[name].add(new)
        self.forget()
        return means

    def forget(self) -> None:
        self._seen: dict[str, list[Tensor]] = {name: [] for name in self.parts}

    def state_dict(self) -> dict[str, Any]:
        """The scales."""
        return {
            "start": dict(self.start),
            "spreads": {name: [s.count, s.mean, s.squares] for name, s in self._spreads.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start = {name: (mean, spread) for name, (mean, spread) in state["start"].items()}
        self._spreads = {name: Spread(*values) for name, values in state["spreads"].items()}
        self.forget()


def _check_spread(name: str, spread: Spread) -> None:
    """A scale needs finite scores that differ."""
    if not spread.squares > 0 or math.isinf(spread.squares):
        raise RewardError(
            f"the part '{name}' of the mix scored {spread.count} pictures with mean {spread.mean:g} and no spread",
            "finite scores that differ from picture to picture",
            f"give its mean and spread in reward.mix_mean and reward.mix_spread, or leave '{name}' out",
        )


def load_mix(config: RewardConfig, device: str | torch.device) -> Mix:
    """The mix that `reward.mix` describes. Raises `RewardError`."""
    if not config.mix:
        do = (
            'for example mix = { embedded = 0.7, sharpness = 0.3 }; a file\'s function as "my.py:score" = 0.5'
        )
        raise RewardError('reward.name = "mix" with an empty reward.mix', "parts and their weights", do)
    if not all(config.mix.values()):
        got = f"reward.mix = {config.mix} with a weight of 0"
        raise RewardError(got, "weights that count", "leave the part out, or list it in reward.watch")
    parts = {name: load_reward(name, device, config) for name in config.mix}
    return Mix(parts, config.mix, _given(config), running=config.mix_scale == "running")


def _given(config: RewardConfig) -> dict[str, tuple[float, float]]:
    for key in ("mix_mean", "mix_spread"):
        for name in getattr(config, key):
            if name not in config.mix:
                near = difflib.get_close_matches(name, config.mix, n=1, cutoff=0.0)[0]
                got = f"reward.{key} names '{name}', which is not in reward.mix"
                raise RewardError(got, f"one of {', '.join(config.mix)}", f"did you mean '{near}'?")
    if set(config.mix_mean) != set(config.mix_spread) or any(s <= 0 for s in config.mix_spread.values()):
        raise RewardError(
            f"reward.mix_mean = {config.mix_mean} with reward.mix_spread = {config.mix_spread}",
            "both for the same parts, and spreads above 0",
            "give a part both numbers, or neither: then they are measured at the start",
        )
    return {name: (mean, config.mix_spread[name]) for name, mean in config.mix_mean.items()}
