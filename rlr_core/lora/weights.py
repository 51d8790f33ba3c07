"""A LoRA as numbers: what each layer gets, whatever file it came from and whatever model it goes into."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlr_core.families import Place


class LayerChange(ABC):
    """What a layer with weight W (out, in, …) gets: W + ΔW, and with DoRA its rows, or columns, then scaled.

    Attributes:
        kind: of adapter, for people.
        alpha: ΔW is scaled by alpha / rank.
        magnitude: DoRA (arXiv 2402.09353), the norm that each output has, (out, 1) or (out, 1, 1, 1); or that each input has,
            (1, in) or (1, in, 1, 1), as LyCORIS and OneTrainer have it unless they are told otherwise; or None.
    """

    kind: str
    alpha: float
    magnitude: Tensor | None

    @property
    @abstractmethod
    def rank(self) -> int:
        """Inner size; 1 where there is none."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int | None, ...]:
        """Of the layer's weight; a convolution's places may lie flat beside its inputs, and None is not told."""

    @property
    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """All that it is made of, without alpha."""

    @property
    @abstractmethod
    def useful(self) -> bool:
        """Whether it may have an effect."""

    @property
    def bias(self) -> Tensor | None:
        """What is added to the layer's bias, (out,); None for nothing."""
        return None

    @abstractmethod
    def delta(self) -> Tensor:
        """ΔW, float32, in the shape `shape`."""

    @abstractmethod
    def as_lora(self, base: Tensor | None = None) -> LayerWeights:
        """The same ΔW as a LoRA. Raises `CheckpointError` where it is none of a low rank, and `base` is not given.

        Args:
            base: weight of the layer.
        """

    @abstractmethod
    def to(self, dtype: torch.dtype) -> LayerChange:
        """The same in another dtype; alpha stays exact."""

    @abstractmethod
    def folded(self) -> LayerChange:
        """Alpha equal to the rank: the scale is multiplied into the weights, for programs that read no alpha."""

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    @property
    def by_input(self) -> bool:
        """Whether DoRA's norms are those of inputs."""
        return self.magnitude is not None and self.magnitude.shape[1] > 1

    def change_of(self, base: Tensor) -> Tensor:
        """ΔW of a layer whose weight is `base`, in its shape and on its device."""
        return self.delta().reshape(base.shape).to(base.device)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a layer's weight of that shape can be changed."""
        own = tuple(size or 0 for size in self.shape)
        return linear_shape(own) == linear_shape(shape)

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        """The layer's `weight` (out, in, …) with the LoRA at `strength`, float32.

        With DoRA, `strength` goes from the old weight to the new one in a straight line, as hosts do it.
        """
        base = weight.float()
        delta = self.change_of(base)
        if self.magnitude is None:
            return base + strength * delta
        full = base + delta
        others = [axis for axis in range(full.dim()) if axis != int(self.by_input)]
        norm = torch.linalg.vector_norm(full, dim=others, keepdim=True)
        target = full * (self.magnitude.float().reshape(norm.shape).to(base.device) / norm)
        return base + strength * (target - base)


def linear_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a convolution of one place, the shape of the linear layer that it is; any other one as it is."""
    return shape[:2] if math.prod(shape[2:]) == 1 else shape


@dataclass(frozen=True)
class LayerWeights(LayerChange):
    """A LoRA: ΔW = alpha/rank · up·down.

    Attributes:
        down: (rank, in) or, of a convolution, (rank, in, k, k).
        up: (out, rank) or (out, rank, 1, 1).
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None
    kind = "LoRA"

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.up.shape[0], *self.down.shape[1:])

    @property
    def tensors(self) -> list[Tensor]:
        return [tensor for tensor in (self.down, self.up, self.magnitude) if tensor is not None]

    @property
    def useful(self) -> bool:
        return bool(self.up.float().any())

    def delta(self) -> Tensor:
        """alpha/rank · up·down, float32, (out, in) or (out, in, k, k)."""
        down, up = self.down.float(), self.up.float()
        product = up.flatten(1) @ down.flatten(1)
        return (self.scale * product).reshape(self.shape)

    def as_lora(self, base: Tensor | None = None) -> LayerWeights:
        return self

    def to(self, dtype: torch.dtype) -> LayerWeights:
        magnitude = None if self.magnitude is None else self.magnitude.to(dtype)
        return replace(self, down=self.down.to(dtype), up=self.up.to(dtype), magnitude=magnitude)

    def folded(self) -> LayerWeights:
        up = (self.up.float() * self.scale).to(self.up.dtype)
        return replace(self, up=up, alpha=float(self.rank))


LoraWeights = dict[Place, LayerWeights]
"""A LoRA as it is trained and injected."""
LayerChanges = Mapping[Place, LayerChange]
"""What a file may have: LoRAs, and LyCORIS's adapters."""


def useless(weights: LayerChanges) -> bool:
    """Whether it would have no effect, as where every `up` is 0."""
    return not any(layer.useful for layer in weights.values())


def finite(layer: LayerChange) -> bool:
    """Whether all numbers of a layer are."""
    return math.isfinite(layer.alpha) and all(
        bool(tensor.float().isfinite().all()) for tensor in layer.tensors
    )
