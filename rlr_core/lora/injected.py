"""A LoRA inside a model's networks: what all ways to put it there have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlr_core.errors import CheckpointError
from rlr_core.families import Adaptable, Place, Role
from rlr_core.lora.encoding import encode
from rlr_core.lora.formats import ALPHA
from rlr_core.lora.targets import Layer, loadable_layers
from rlr_core.lora.weights import LayerWeights, LoraWeights


@dataclass(frozen=True)
class LayerSize:
    """Of one layer's LoRA: its rank, and alpha as float32 can hold it."""

    rank: int
    alpha: float


class InjectedLora(ABC):
    """A LoRA that is part of the networks' forward pass; see `Lora`.

    It computes in float32 even where the base is half precision.

    Attributes:
        family: it names the layers.
        sizes: layer → rank and alpha, in the networks' order.
        dora: whether the rows' norms are learned, too (arXiv 2402.09353; its gradient takes the norm of W + ΔW for constant).
        parameters: leaf tensors that require a gradient: down, up (with DoRA: and magnitude), down, … in the order of `sizes`.
    """

    def __init__(self, model: Adaptable, sizes: Mapping[Place, LayerSize], *, dora: bool = False):
        self.family, self.sizes, self.dora = model.lora_family, dict(sizes), dora
        named = {component.name: component for component in model.components}
        self._components = {place.network: named[place.network] for place in sizes}
        there = loadable_layers(list(self._components.values()), self.family)
        self._bases: dict[Place, Layer] = {place: there[place] for place in sizes}
        self._tensors: dict[Place, list[Tensor]] = self._insert()
        self.parameters: list[Tensor] = [p for tensors in self._tensors.values() for p in tensors]
        assert all(p.is_leaf and p.requires_grad and p.dtype == torch.float32 for p in self.parameters)

    @abstractmethod
    def _insert(self) -> dict[Place, list[Tensor]]:
        """Put it into the networks; of each layer down (r, in, …), up (out, r, …) and, with DoRA, the magnitude (out, …)."""

    @abstractmethod
    def eject(self) -> None:
        """Leave the networks as they were found, module for module; the parameters keep their values."""

    @abstractmethod
    def disabled(self) -> AbstractContextManager[None]:
        """Inside, the base model, to the last bit."""

    @abstractmethod
    def scaled(self, strength: float) -> AbstractContextManager[None]:
        """Inside, the LoRA's effect times `strength`, as hosts do for <lora:name:strength>."""

    def layers(self) -> Iterator[tuple[Place, Tensor, Tensor]]:
        """(layer, down, up): down (r, in, …), up (out, r, …)."""
        for place, (down, up, *_) in self._tensors.items():
            yield place, down, up

    @property
    def networks(self) -> dict[str, Any]:
        """Those that it is in, by name."""
        return {name: component.network for name, component in self._components.items()}

    @property
    def in_text_encoder(self) -> bool:
        """Whether what the prompts are turned into depends on it."""
        return any(component.role == Role.TEXT_ENCODER for component in self._components.values())

    @property
    def rank(self) -> int:
        """The largest of the layers' ranks."""
        return max(size.rank for size in self.sizes.values())

    @property
    def alpha(self) -> float:
        """Alpha of the layers with the largest rank."""
        return next(size.alpha for size in self.sizes.values() if size.rank == self.rank)

    def weights(self) -> LoraWeights:
        """Copies on the CPU, float32."""
        return {place: self._weights_of(place) for place in self.sizes}

    def _weights_of(self, place: Place) -> LayerWeights:
        down, up, *magnitude = (p.detach().cpu().clone().contiguous() for p in self._tensors[place])
        norms = magnitude[0].reshape(-1, *[1] * (up.dim() - 1)) if magnitude else None
        return LayerWeights(down, up, self.sizes[place].alpha, norms)

    def set_weights(self, weights: LoraWeights) -> None:
        """The inverse of `weights`. Raises `CheckpointError`, and changes nothing, where they do not fit."""
        values = {place: _values(weights[place]) for place in self.sizes}
        for place, tensors in values.items():
            _check_values(place, tensors, [tuple(p.shape) for p in self._tensors[place]])
        with torch.no_grad():
            for place, tensors in values.items():
                for p, value in zip(self._tensors[place], tensors, strict=True):
                    p.copy_(value.reshape(p.shape))

    def state_dict(self) -> dict[str, Tensor]:
        """`weights` under the names of the family's first format: down, up, alpha and, with DoRA, dora_scale."""
        return self._named(self.weights())

    def _named(self, weights: LoraWeights) -> dict[str, Tensor]:
        return encode(weights, self.family.formats[0], self.family)[0]

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`.

        Raises `CheckpointError`, and changes nothing, if `state` is of another LoRA or not finite.
        """
        own = self.state_dict()
        _check_state(state, own)
        layers = {}
        for place, layer in self.weights().items():
            down, up, *rest = (state[name] for name in self._named({place: layer}))
            layers[place] = LayerWeights(down, up, layer.alpha, rest[0] if self.dora else None)
        self.set_weights(layers)


def _values(layer: LayerWeights) -> list[Tensor]:
    return [layer.down, layer.up, *([] if layer.magnitude is None else [layer.magnitude])]


DO = "use the file with the config that it was made with"


def _check_values(place: Place, values: list[Tensor], shapes: list[tuple[int, ...]]) -> None:
    """A 1 × 1 convolution and a linear layer have the same numbers; else shapes are equal."""
    if not all(bool(value.float().isfinite().all()) for value in values):
        raise CheckpointError(
            f"{'.'.join(place)} holds NaN or infinity", "finite numbers", "use an earlier checkpoint"
        )
    for value, shape in zip(values, shapes, strict=True):
        if tuple(value.squeeze().shape) != tuple(torch.empty(shape, device="meta").squeeze().shape):
            raise CheckpointError(f"{'.'.join(place)} of shape {tuple(value.shape)}", f"shape {shape}", DO)


def _check_state(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    if state.keys() != own.keys():
        strange, absent = sorted(state.keys() - own.keys()), sorted(own.keys() - state.keys())
        raise CheckpointError(
            f"{len(strange)} unknown and {len(absent)} missing tensors ({(strange + absent)[0]}, …)",
            f"the {len(own)} tensors of this LoRA",
            DO,
        )
    for name, value in own.items():
        if state[name].shape != value.shape:
            raise CheckpointError(
                f"{name} of shape {tuple(state[name].shape)}", f"shape {tuple(value.shape)}", DO
            )
        if name.endswith(ALPHA) and not torch.equal(state[name].float().cpu(), value):
            raise CheckpointError(f"{name} = {float(state[name]):g}", f"{float(value):g}", DO)
