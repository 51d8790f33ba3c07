"""Means with their confidence: jackknife for statistics of vectors, Student's t for curves over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

# 97.5% quantiles of Student's t for 1 … 30 degrees of freedom.
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A value with half the width of its 95% confidence interval."""

    value: float
    half_width: float

    @property
    def low(self) -> float:
        """Lower end."""
        return self.value - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.value + self.half_width


def student(freedom: int) -> float:
    """t with 2.5% beyond it."""
    return STUDENT[freedom - 1] if freedom <= len(STUDENT) else 1.96 + 2.4 / freedom


def mean_over_seeds(values: Sequence[float]) -> Measured:
    """Mean and its interval; of a single value the interval is unknown (NaN)."""
    if len(values) < 2:
        return Measured(fmean(values), math.nan)
    return Measured(fmean(values), student(len(values) - 1) * stdev(values) / math.sqrt(len(values)))


def jackknife(statistic: Callable[[np.ndarray], float], count: int) -> Measured:
    """`statistic` of the indices 0 … count-1 and, leaving out one at a time, its standard error (Efron, 1982)."""
    everything = np.arange(count)
    without = np.array([statistic(np.delete(everything, k)) for k in range(count)])
    error = math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
    return Measured(statistic(everything), student(count - 1) * error)


def squared_mean(gram: np.ndarray) -> Callable[[np.ndarray], float]:
    """|E d|² from the inner products (n, n) of draws d_k: the mean over pairs k ≠ l, unbiased."""

    def statistic(chosen: np.ndarray) -> float:
        part = gram[np.ix_(chosen, chosen)]
        n = len(chosen)
        return float((part.sum() - np.trace(part)) / (n * (n - 1)))

    return statistic


def total_variance(gram: np.ndarray) -> Callable[[np.ndarray], float]:
    """Trace of the covariance of draws, from their inner products (n, n)."""
    mean = squared_mean(gram)
    return lambda chosen: float(np.diag(gram)[chosen].mean()) - mean(chosen)


def ratio(
    above: Callable[[np.ndarray], float], below: Callable[[np.ndarray], float]
) -> Callable[[np.ndarray], float]:
    """Of two statistics of the same draws."""
    return lambda chosen: above(chosen) / below(chosen)
