"""A LoRA as numbers: what each layer gets, whatever file it came from and whatever model it goes into."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlr_core.families import Place


@dataclass(frozen=True)
class LayerWeights:
    """Effect on a layer with weight W (out, in, …): W + alpha/rank · up·down, and with DoRA its rows, or columns, then scaled.

    Attributes:
        down: (rank, in) or, of a convolution, (rank, in, k, k).
        up: (out, rank) or (out, rank, 1, 1).
        magnitude: DoRA (arXiv 2402.09353), the norm that each output has, (out, 1) or (out, 1, 1, 1); or that each input has,
            (1, in) or (1, in, 1, 1), as LyCORIS and OneTrainer have it unless they are told otherwise; or None.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """Inner size."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    @property
    def by_input(self) -> bool:
        """Whether DoRA's norms are those of inputs."""
        return self.magnitude is not None and self.magnitude.shape[1] > 1

    def delta(self) -> Tensor:
        """alpha/rank · up·down, float32, (out, in) or (out, in, k, k)."""
        down, up = self.down.float(), self.up.float()
        product = up.flatten(1) @ down.flatten(1)
        return (self.scale * product).reshape(up.shape[0], *down.shape[1:])

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        """The layer's `weight` (out, in, …) with the LoRA at `strength`, float32.

        With DoRA, `strength` goes from the old weight to the new one in a straight line, as hosts do it.
        """
        base = weight.float()
        delta = self.delta().reshape(base.shape).to(base.device)
        if self.magnitude is None:
            return base + strength * delta
        full = base + delta
        others = [axis for axis in range(full.dim()) if axis != int(self.by_input)]
        norm = torch.linalg.vector_norm(full, dim=others, keepdim=True)
        target = full * (self.magnitude.float().reshape(norm.shape).to(base.device) / norm)
        return base + strength * (target - base)

    def to(self, dtype: torch.dtype) -> LayerWeights:
        """The same in another dtype; alpha stays exact."""
        magnitude = None if self.magnitude is None else self.magnitude.to(dtype)
        return replace(self, down=self.down.to(dtype), up=self.up.to(dtype), magnitude=magnitude)

    def folded(self) -> LayerWeights:
        """Alpha equal to the rank: the scale is multiplied into `up`, for programs that read no alpha."""
        up = (self.up.float() * self.scale).to(self.up.dtype)
        return replace(self, up=up, alpha=float(self.rank))


LoraWeights = dict[Place, LayerWeights]


def useless(weights: LoraWeights) -> bool:
    """Whether it would have no effect: every `up` is 0."""
    return not any(layer.up.float().any() for layer in weights.values())


def finite(layer: LayerWeights) -> bool:
    """Whether all numbers of a layer are."""
    tensors = [tensor for tensor in (layer.down, layer.up, layer.magnitude) if tensor is not None]
    return math.isfinite(layer.alpha) and all(bool(tensor.float().isfinite().all()) for tensor in tensors)
