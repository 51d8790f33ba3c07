"""A rehearsal: the real iteration on tensors without data.

Everything that would be on the card is on torch's `meta` device: shapes and types without numbers. Estimator, chain, networks,
reward and optimizer run as they are, autograd included, so that what they keep for the way back is counted, not guessed.
Weights take no memory, and an evaluation takes less than a second, whatever the size of the picture.

What is read back from the card (a norm, whether all is finite) is 1, and no two rows are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Denoiser, Level, Prediction
from rlr_core.families import Role
from rlr_core.models import Model, WrappedModel
from rlr_core.planner.live import LiveTensors
from rlr_core.planner.shapes import Shapes

aten = torch.ops.aten


class Rehearsal(LiveTensors):
    """Counts what is on `meta`.

    Attributes:
        flops: of matrix products, convolutions and attention; a multiply-add counts 2.
    """

    shapes = Shapes()
    """Of all rehearsals: what an operation gives does not change."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            return torch.ones((), dtype=args[0].dtype).item()
        if func is aten._to_copy.default and args[0].is_meta and _is_real(kwargs.get("device")):
            return torch.ones((), dtype=kwargs.get("dtype") or args[0].dtype).expand(args[0].shape)
        if func is aten.unique_dim.default and args[0].is_meta:
            numbers = torch.empty(len(args[0]), dtype=torch.long, device="meta")
            return torch.empty_like(args[0]), numbers, numbers
        out, flops = self.shapes(func, args, kwargs)
        self.flops += flops
        self.count(out)
        return out

    def counts(self, tensor: Tensor) -> bool:
        return tensor.is_meta


def _is_real(device: torch.device | None) -> bool:
    return device is not None and device.type != "meta"


@dataclass
class Recalled:
    """A function whose first argument is a tensor. Its calls without gradient are rehearsed once for each shape, then recalled.

    Attributes:
        name: of the part of memory that it makes.
        known: shape → floating-point operations, bytes in between, and the result.
    """

    function: Callable[..., Any]
    rehearsal: Rehearsal
    name: str
    known: dict[torch.Size, tuple[float, int, Any]] = field(default_factory=dict)

    def __call__(self, x: Tensor, *args: Any) -> Any:
        """A tensor or, of a denoiser, a `Prediction`."""
        rehearsal = self.rehearsal
        with rehearsal.part(self.name):
            if torch.is_grad_enabled():
                return self.function(x, *args)
            if x.shape not in self.known:
                return self._rehearse(x, *args)
            flops, between, like = self.known[x.shape]
            rehearsal.flops += flops
            rehearsal.touch(between)
            return like()

    def _rehearse(self, x: Tensor, *args: Any) -> Any:
        rehearsal = self.rehearsal
        flops, before, outer = rehearsal.flops, rehearsal.now, (rehearsal.peak, rehearsal.at_peak)
        rehearsal.restart()
        out = self.function(x, *args)
        self.known[x.shape] = (rehearsal.flops - flops, rehearsal.peak - before, _maker(out))
        if outer[0] > rehearsal.peak:
            rehearsal.peak, rehearsal.at_peak = outer
        return out


def _maker(out: Tensor | Prediction) -> Callable[[], Any]:
    """What makes another result of the same sizes."""
    if isinstance(out, Prediction):
        makers = [_maker(part) for part in out]
        return lambda: Prediction(*(make() for make in makers))
    shape, dtype = out.shape, out.dtype
    return lambda: torch.empty(shape, dtype=dtype, device="meta")


@dataclass(frozen=True)
class RehearsedModel(WrappedModel):
    """A model whose denoiser and decoder are recalled."""

    rehearsal: Rehearsal
    recalled_decode: Recalled

    @classmethod
    def of(cls, model: Model, rehearsal: Rehearsal) -> RehearsedModel:
        """The model in a rehearsal."""
        return cls(model, rehearsal, Recalled(model.decode, rehearsal, Role.DECODER.value))

    def denoiser(self, guidance_scale: float) -> Denoiser:
        denoiser = self.model.denoiser(guidance_scale)
        return RecalledDenoiser(Recalled(denoiser, self.rehearsal, Role.DENOISER.value))

    def decode(self, latents: Tensor) -> Tensor:
        return self.recalled_decode(latents)


@dataclass(frozen=True)
class RecalledDenoiser:
    """A denoiser that is recalled."""

    recalled: Recalled

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        return self.recalled(x, level, conditioning)
