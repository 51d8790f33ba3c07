"""Statistical comparison of an estimate with its exact target: a stated false-failure rate, and a power."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@functools.cache
def student_limit(rate: float, freedom: int) -> float:
    """The t with P(|t| > limit) = rate for a Student variable of `freedom` degrees of freedom."""
    normal = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    t = np.linspace(0, 60, 600_001)
    density = np.exp(normal - (freedom + 1) / 2 * np.log1p(t**2 / freedom))
    beyond = 2 * np.cumsum(density[::-1])[::-1] * (t[1] - t[0])
    return float(t[np.searchsorted(-beyond, -rate)])


@dataclass(frozen=True)
class Comparison:
    """t-scores of an estimate's deviation from its target, one for each direction, and their limit."""

    scores: Tensor
    limit: float
    margin: float

    @property
    def differs(self) -> bool:
        return not bool(self.scores.abs().max() <= self.limit)

    def __str__(self) -> str:
        scores = ", ".join(f"{score:+.2f}" for score in self.scores)
        return (
            f"t = [{scores}], limit {self.limit:.2f}; 5% of the target are {self.margin:.1f} standard errors"
        )


def compare(replicates: Tensor, target: Tensor, rate: float, directions: Tensor | None = None) -> Comparison:
    """Student's t of the mean of independent `replicates` (R, P) against `target` (P,).

    Tested along each of `directions` (K, P) (by default the axes) and along the target itself; each fails by
    chance with probability `rate`. `margin` is 5% of the target in standard errors along it.
    """
    count, size = replicates.shape
    axes = torch.eye(size, dtype=replicates.dtype) if directions is None else directions
    axes = torch.cat([axes, (target / target.norm())[None]]) if target.norm() > 0 else axes
    deviation = (replicates - target) @ axes.T
    error = deviation.std(0) / math.sqrt(count)
    margin = float(0.05 * target.norm() / error[-1])
    return Comparison(deviation.mean(0) / error, student_limit(rate, count - 1), margin)
