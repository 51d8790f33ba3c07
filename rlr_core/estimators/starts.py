"""Where in the chain an estimator that looks ahead begins: a window, as fractions of T, and draws from it."""

from __future__ import annotations

import torch
from torch import Tensor

from rlr_core.errors import EstimatorError
from rlr_core.estimators.sub_chains import stratified

Window = tuple[float, float]
"""From where to where; 0 is noise, 1 the finished picture."""


def steps_of(window: Window, steps: int, length: int = 1) -> tuple[int, int]:
    """Starts are low … high-1 for sub-chains of `length` in a chain of `steps`: at least one, none after the last that fits."""
    latest = steps - length
    low = min(round(window[0] * steps), latest)
    return low, max(min(round(window[1] * steps), latest + 1), low + 1)


def drawn(low: int, high: int, count: int, generator: torch.Generator) -> Tensor:
    """(count,) uniform over low … high-1, stratified over the samples."""
    return low + (stratified(count, generator) * (high - low)).long().clamp(max=high - low - 1)


def check_window(window: Window, what: str) -> None:
    """Raise an `EstimatorError` where `what`, which start from it, could not."""
    if not window[0] < window[1]:
        raise EstimatorError(
            f"{what} that start from {window[0]} to {window[1]} of the chain",
            "estimator.starts_from below estimator.starts_until",
            "correct them; 0 and 1 are the whole chain",
        )
