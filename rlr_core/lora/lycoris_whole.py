"""LyCORIS's adapters without rank and alpha: whole changes of weights, and (IA)³."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from rlr_core.lora.lycoris import LycorisLayer


class Unscaled(LycorisLayer):
    """Without rank, alpha and norms."""

    def in_file(self) -> dict[str, Tensor]:
        return dict(self.parts)

    @property
    def rank(self) -> int:
        return 1

    @property
    def counts(self) -> bool:
        return False

    @property
    def lora_rank(self) -> int:
        """Any."""
        return math.prod(size or 1 for size in self.shape)

    def low_rank(self) -> tuple[Tensor, Tensor]:
        raise AssertionError("it has no low rank")

    def _scaled_part(self) -> str:
        raise AssertionError("nothing is scaled")


class Full(Unscaled):
    """ΔW itself, and what the bias gets."""

    kind = "set of whole weights"

    @property
    def shape(self) -> tuple[int | None, ...]:
        return tuple(self.parts[".diff"].shape)

    @property
    def bias(self) -> Tensor | None:
        found = self.parts.get(".diff_b")
        return found if found is not None and bool(found.float().any()) else None

    @property
    def useful(self) -> bool:
        return any(bool(part.float().any()) for part in self.parts.values())

    def delta(self) -> Tensor:
        return self.parts[".diff"].float()


class Rescaling(Unscaled):
    """(IA)³: W with its rows, or with `on_input` its columns, times w; ΔW is known only with W."""

    kind = "(IA)³"

    @property
    def useful(self) -> bool:
        return bool(self.parts[".weight"].float().any())

    @property
    def on_input(self) -> bool:
        """Whether columns are scaled."""
        return bool(self.parts[".on_input"])

    @property
    def shape(self) -> tuple[int | None, ...]:
        count = self.parts[".weight"].numel()
        return (None, count) if self.on_input else (count, None)

    def in_file(self) -> dict[str, Tensor]:
        """The mark as a number of the type that everything else has."""
        return {**self.parts, ".on_input": self.parts[".on_input"].float()}

    def fits(self, shape: tuple[int, ...]) -> bool:
        return shape[int(self.on_input)] == self.parts[".weight"].numel()

    def to(self, dtype: torch.dtype) -> LycorisLayer:
        return replace(self, parts={**self.parts, ".weight": self.parts[".weight"].to(dtype)})

    def change_of(self, base: Tensor) -> Tensor:
        axis = int(self.on_input)
        scales = self.parts[".weight"].float().flatten().to(base.device)
        return base.float() * scales.reshape([-1 if n == axis else 1 for n in range(base.dim())])

    def delta(self) -> Tensor:
        raise AssertionError("the change of (IA)³ depends on the layer's weight")
