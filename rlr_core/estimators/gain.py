"""Gradients at a scale that float16 can hold.

A picture has so many pixels that the reward's gradient of each is tiny: below 6e-8 float16 has only 0. Where the gradient
leaves float32 for the network it is therefore scaled by a power of two, which loses nothing, so that its largest component is
about `TARGET`; at the parameters the scale is taken out again. Nothing has to be tuned or remembered, as with the loss scale of
mixed-precision training (arXiv 1710.03740, section 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TARGET = 16.0
"""Of the largest component; float16 ends at 65504."""


@dataclass
class Gain:
    """The scale of the gradient that is being computed.

    Attributes:
        value: 1 until the gradient has come through.
    """

    value: float = 1.0

    def through(self, latents: Tensor) -> Tensor:
        """`latents` unchanged; the gradient that comes back through them is scaled."""
        return _Through.apply(latents, self)

    def choose(self, largest: float) -> None:
        """A power of two for a gradient whose largest component is `largest`; 1 where it is 0 or not finite."""
        usable = 0 < largest < math.inf
        self.value = 2.0 ** round(math.log2(TARGET / largest)) if usable else 1.0

    def undone(self, gradient: Tensor) -> Tensor:
        """The gradient at its own scale."""
        return gradient if self.value == 1 else gradient / self.value


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latents: Tensor, gain: Gain) -> Tensor:
        ctx.gain = gain
        return latents.view_as(latents)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.gain.choose(float(gradient.abs().max()))
        return gradient * ctx.gain.value, None
