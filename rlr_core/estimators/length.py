"""The length of a gradient, whatever scale its reward has: float32 holds neither the square of 1e30 nor that of 1e-30."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHORTEST = 1e-18
"""Of what shorter gradients have for components float32 loses the squares."""


def length(gradient: Tensor) -> float:
    """|g| of (P,). NaN and infinity stay visible."""
    shrunk, scale = _held(gradient)
    return scale * float(shrunk.norm())


def scaled_to_unit(gradient: Tensor) -> Tensor:
    """g/|g| (P,); 0 stays 0, and NaN or infinity stays visible."""
    shrunk, _ = _held(gradient)
    return shrunk / shrunk.norm().clamp(min=torch.finfo(gradient.dtype).tiny)


def _held(gradient: Tensor) -> tuple[Tensor, float]:
    """A multiple of the gradient whose length float32 holds, and by what it was divided: 1 wherever that can be."""
    if SHORTEST < float(gradient.norm()) < math.inf:
        return gradient, 1.0
    largest = float(gradient.abs().max())
    return (gradient / largest, largest) if 0 < largest < math.inf else (gradient, 1.0)
