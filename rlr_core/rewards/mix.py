"""A weighted mix of rewards, each brought to a common scale.

    R = Σ_k w_k (R_k − m_k) / s_k

m_k and s_k are given, or are the mean and the standard deviation of R_k over pictures painted at the start, so that 0 is where
training begins and a weight counts standard deviations. A running s_k goes on to collect every picture that is scored in
training; m_k, which moves no gradient, stays. What is measured outside training always uses the scale of the start, so that
scores of one run can be compared.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlr_core.config import RewardConfig
from rlr_core.errors import RewardError
from rlr_core.rewards.library import load_reward
from rlr_core.rewards.reward import Reward

Sum = Callable[[Tensor], Tensor]
"""A tensor of this process → its sum over all processes that share a batch."""


def alone(tensor: Tensor) -> Tensor:
    """The sum over one process."""
    return tensor


@dataclass
class Spread:
    """Count, mean and summed squared deviation of all scores so far (Welford's method, batch by batch)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, scores: Tensor, total: Sum = alone) -> None:
        """More scores (n,) and, with `total`, those of the other processes."""
        new, count = scores.double(), int(total(torch.tensor(len(scores))))
        mean = total(new.sum()) / count
        everything, shift = self.count + count, float(mean) - self.mean
        squares = float(total((new - mean).square().sum()))
        self.squares += squares + shift**2 * self.count * count / everything
        self.mean += shift * count / everything
        self.count = everything

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return math.sqrt(self.squares / (self.count - 1))


class Mix:
    """Several rewards as one; satisfies the estimators' `RewardFunction`.

    Before `calibrate` every part without a given scale counts as it is (mean 0, spread 1).

    Attributes:
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
        self._running = running
        self._spreads: dict[str, Spread] = {}
        self._seen: dict[str, list[Tensor]] = {name: [] for name in parts}

    @property
    def name(self) -> str:
        """Weights and parts; those without a gradient are called so."""
        terms = [
            f"{self.weights[name]:g} {name}{'' if part.differentiable else ' (black box)'}"
            for name, part in self.parts.items()
        ]
        return f"mix: {' + '.join(terms)}"

    @property
    def differentiable(self) -> bool:
        """If every part is."""
        return all(part.differentiable for part in self.parts.values())

    @property
    def calibrated(self) -> bool:
        """Whether every part has its scale."""
        return set(self.start) == set(self.parts)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The mix (B,) on the present scale, of images (B, 3, H, W) in [0, 1]; its parts are kept until `settle`."""
        scores = self.score_parts(images, prompts)
        for name, values in scores.items():
            self._seen[name].append(values.detach())
        return self._total(scores, self._scale())

    def score_parts(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Each part's own scores (B,)."""
        return {name: part(images, prompts) for name, part in self.parts.items()}

    def total(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The mix (B,) of the parts' own scores, on the scale of the start."""
        return self._total(scores, self.start)

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

    def calibrate(self, scores: Mapping[str, Tensor]) -> None:
        """Take the scale of the parts that have none from their scores (N,) at the start. Raises `RewardError`."""
        for name in self.parts:
            if name not in self.start:
                spread = Spread()
                spread.add(scores[name])
                _check_spread(name, spread)
                self.start[name], self._spreads[name] = (spread.mean, spread.deviation), spread

    def settle(self, total: Sum = alone) -> dict[str, float]:
        """The mean of each part over what was scored since the last call, which a running scale now takes up.

        Args:
            total: for processes that share a batch, all of which call this and then have learned the same.
        """
        seen = {name: torch.cat(values) for name, values in self._seen.items() if values}
        self._seen = {name: [] for name in self.parts}
        counts = {name: total(torch.tensor(len(values))) for name, values in seen.items()}
        means = {name: float(total(values.sum()) / counts[name]) for name, values in seen.items()}
        for name, spread in self._spreads.items():
            if name in seen and math.isfinite(means[name]):
                spread.add(seen[name], total)
        return means

    def state_dict(self) -> dict[str, Any]:
        """The scales."""
        return {
            "start": dict(self.start),
            "spreads": {name: [s.count, s.mean, s.squares] for name, s in self._spreads.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.start = {name: (mean, spread) for name, (mean, spread) in state["start"].items()}
        self._spreads = {name: Spread(*values) for name, values in state["spreads"].items()}


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
