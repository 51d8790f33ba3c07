"""A LoRA by forward hooks on a model's layers: no library, no class of layers is asked for, and no module is exchanged.

For hosts that bring their own networks, as ComfyUI's, whose linear layers may be quantised or move between devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rlr_core.errors import CheckpointError
from rlr_core.families import Adaptable, Place
from rlr_core.lora.injected import InjectedLora, LayerSize
from rlr_core.lora.targets import Layer

CONVOLUTIONS = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}
"""Dimensions of a convolution's weight → what convolves."""


class HookedLora(InjectedLora):
    """A LoRA by hooks. Several may be in a network at a time; each is ejected alone.

    Args:
        device: where its tensors are; None is where each layer's weight is, which hosts that are short of memory keep elsewhere
            than they compute.
    """

    def __init__(
        self,
        model: Adaptable,
        sizes: Mapping[Place, LayerSize],
        *,
        dora: bool = False,
        device: torch.device | None = None,
    ):
        self._device = device
        super().__init__(model, sizes, dora=dora)

    def _insert(self) -> dict[Place, list[Tensor]]:
        self._strength = 1.0
        for place, layer in self._bases.items():
            _refuse_unfit(place, layer, self.dora)
        parts = {
            place: _Side(
                layer.module, self.sizes[place], self.dora, self._device or layer.module.weight.device
            )
            for place, layer in self._bases.items()
        }
        self._handles = [
            layer.module.register_forward_hook(self._hook(parts[place]))
            for place, layer in self._bases.items()
        ]
        return {place: part.tensors for place, part in parts.items()}

    def _hook(self, part: _Side) -> Any:
        def add(module: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            return part(inputs[0], output, self._strength) if self._strength else None

        return add

    def eject(self) -> None:
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        with self.scaled(0.0):
            yield

    @contextmanager
    def scaled(self, strength: float) -> Iterator[None]:
        before = self._strength
        self._strength = before * strength
        try:
            yield
        finally:
            self._strength = before


class _Side:
    """What runs beside one layer: W·x + strength · alpha/rank · up(down(x)).

    With DoRA (arXiv 2402.09353) the layer becomes m/|W + ΔW| · (W + ΔW)·x, and `strength` goes there in a straight line.
    """

    def __init__(self, module: Any, size: LayerSize, dora: bool, device: torch.device):
        self._module, self._scale = module, size.alpha / size.rank
        out, inner = module.weight.shape[0], module.weight.shape[1:]
        flat = [1] * (len(inner) - 1)

        def leaf(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device, requires_grad=True)

        self.down, self.up = leaf(size.rank, *inner), leaf(out, size.rank, *flat)
        self.tensors = [self.down, self.up]
        if dora:
            self.magnitude = leaf(out, 1, *flat)
            with torch.no_grad():
                self.magnitude.copy_(_norms(module.weight.float()))
            self.tensors.append(self.magnitude)

    def __call__(self, x: Tensor, output: Tensor, strength: float) -> Tensor:
        """The layer's new output, of its input `x` and its `output`."""
        added = self._apply(self.up, self._apply(self.down, x.to(self.down.dtype), place=True))
        if len(self.tensors) == 3:
            added = strength * self._dora(output, added * self._scale)
        else:
            added = added * (self._scale * strength)
        return (output + added).to(output.dtype)

    def _apply(self, weight: Tensor, x: Tensor, *, place: bool = False) -> Tensor:
        """`weight` acting on `x`; with `place`, as far apart as the layer itself."""
        if weight.dim() == 2:
            return functional.linear(x, weight)
        module = self._module
        where = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
        return CONVOLUTIONS[weight.dim()](x, weight, **(where if place else {}))

    def _dora(self, output: Tensor, added: Tensor) -> Tensor:
        """What DoRA adds to the output, the norm being held constant."""
        with torch.no_grad():
            delta = self.up.flatten(1) @ self.down.flatten(1) * self._scale
            base = self._module.weight.to(self.down)
            norms = _norms(base + delta.reshape(base.shape))
        ratio = (self.magnitude / norms).flatten()
        bias = self._module.bias
        plain = output.to(added.dtype)
        if output.dim() != 2 and self.down.dim() > 2:  # channels come before the places of a convolution
            ratio = ratio.reshape(-1, *[1] * (self.down.dim() - 2))
            bias = None if bias is None else bias.reshape(ratio.shape)
        inner = plain if bias is None else plain - bias.to(plain)
        return (ratio - 1) * inner + ratio * added


def _norms(weight: Tensor) -> Tensor:
    """Of the rows of (out, in, …): (out, 1, …)."""
    return weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.dim() - 1))


def _refuse_unfit(place: Place, layer: Layer, dora: bool) -> None:
    module = layer.module
    grouped = getattr(module, "groups", 1) != 1 or getattr(module, "transposed", False)
    if grouped or isinstance(getattr(module, "padding", 0), str):
        raise CheckpointError(
            f"{'.'.join(place)} is a convolution in groups, transposed, or padded by name",
            "linear layers and plain convolutions",
            "choose other lora.targets",
        )
    if dora and not module.weight.is_floating_point():
        raise CheckpointError(
            f"{'.'.join(place)} is quantised, so that DoRA cannot take the norms of its rows",
            "weights of a floating type",
            "set lora.dora = false",
        )
