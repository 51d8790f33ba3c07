"""What an estimator returns: a gradient in parts, each with its norm and its standard error, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rlr_core.chain import Cost
from rlr_core.estimators.collective import Collective
from rlr_core.estimators.length import length


@dataclass(frozen=True)
class Part:
    """One part of a gradient of J (to be ascended).

    Attributes:
        gradient: (P,), flat over the parameters; the mean over the batch.
        standard_error: root of the summed variances of the gradient's components, from the spread between chunks of the
            batch; NaN for a single chunk. Stratified draws make it an upper estimate.
    """

    gradient: Tensor
    standard_error: float

    @property
    def norm(self) -> float:
        """Euclidean norm of the gradient. Noise included: its square is |mean|² + standard_error² in expectation."""
        return length(self.gradient)


@dataclass(frozen=True)
class Estimate:
    """A gradient estimate of one batch.

    Attributes:
        parts: by name, as "first order"; they add up to the gradient.
        rewards: (B,) of the samples it was estimated from.
        cost: network evaluations of the whole batch.
    """

    parts: Mapping[str, Part]
    rewards: Tensor
    cost: Cost

    @classmethod
    def of(
        cls, means: Mapping[str, GradientMean], rewards: Tensor, cost: Cost, collective: Collective
    ) -> Estimate:
        """From what every process has found.

        Args:
            means: part → the gradients of this process's chunks.
            rewards: (B,) of the whole batch.
            cost: of this process.
        """
        parts = {name: mean.part(collective) for name, mean in means.items()}
        spent = collective.sum(torch.tensor([cost.forward, cost.backward]))
        return cls(parts, rewards, Cost(*spent.tolist()))

    @property
    def gradient(self) -> Tensor:
        """The sum of the parts, (P,)."""
        return torch.stack([part.gradient for part in self.parts.values()]).sum(0)

    @property
    def norm(self) -> float:
        """Euclidean norm of the gradient."""
        return length(self.gradient)

    @property
    def standard_error(self) -> float:
        """Of the sum, taking the parts as uncorrelated."""
        return math.sqrt(sum(part.standard_error**2 for part in self.parts.values()))

    @property
    def finite(self) -> bool:
        """Whether all gradients and rewards are finite."""
        return bool(self.rewards.isfinite().all()) and all(
            p.gradient.isfinite().all() for p in self.parts.values()
        )


@dataclass
class GradientMean:
    """Mean and standard error of vectors that arrive one by one, at the memory of one vector."""

    count: int = 0
    total: Tensor | None = None
    squares: float = 0.0

    def add(self, vector: Tensor) -> None:
        """One more vector (P,), weighted like all others."""
        self.total = vector.clone() if self.total is None else self.total.add_(vector)
        self.squares += float(vector.double().square().sum())
        self.count += 1

    def part(self, collective: Collective) -> Part:
        """The mean over all processes' vectors, with the standard error of the mean (trace of the covariance over n)."""
        assert self.total is not None, "no vector was added"
        sums = collective.sum(torch.tensor([self.count, self.squares], dtype=torch.float64)).tolist()
        n, squares = int(sums[0]), sums[1]
        mean = collective.sum(self.total) / n
        if n == 1:
            return Part(mean, math.nan)
        spread = squares - n * float(mean.double().square().sum())
        return Part(mean, math.sqrt(max(spread, 0.0) / (n * (n - 1))))
