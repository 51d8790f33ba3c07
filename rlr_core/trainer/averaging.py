"""The mean of a LoRA over its last iterations: steadier than the latest of its noisy steps (Polyak averaging)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Average:
    """An exponential moving mean of `parameters`, corrected for its start as in Adam (arXiv 1412.6980, section 3).

    Args:
        parameters: what is averaged.
        decay: how much of the mean stays after an iteration; 0 is no averaging.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float):
        self.parameters, self.decay = parameters, decay
        self.count = 0
        self._sums = [torch.zeros_like(p, requires_grad=False) for p in parameters] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters' values in."""
        if self.decay:
            for mean, p in zip(self._sums, self.parameters, strict=True):
                mean.lerp_(p, 1 - self.decay)
        self.count += 1

    @torch.no_grad()
    def apply(self) -> None:
        """Give the parameters their mean, once there is one."""
        correction = 1 - self.decay**self.count
        if self.decay and self.count:
            for p, mean in zip(self.parameters, self._sums, strict=True):
                p.copy_(mean / correction)

    def state_dict(self) -> dict[str, Any]:
        """The mean so far."""
        return {"count": self.count, "sums": [mean.cpu().clone() for mean in self._sums]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.count = state["count"]
        for mean, value in zip(self._sums, state["sums"], strict=True):
            mean.copy_(value)
