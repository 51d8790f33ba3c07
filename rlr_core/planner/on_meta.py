"""What torch's `meta` device lacks: attention without the matrix of all pairs, and autocast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LOWER = ("linear", "conv2d", "scaled_dot_product_attention")
"""Functions that autocast lets compute in the lower precision."""
FLOAT32 = ("group_norm", "layer_norm", "softmax")
"""Those that it lets compute in float32 on a graphics card; on a CPU they keep their input's."""


@contextmanager
def as_on(device: str) -> Iterator[None]:
    """Inside, networks on `meta` compute what they would on `device`."""
    kept = {name: getattr(functional, name) for name in (*LOWER, *FLOAT32)}
    attention = partial(_attention, kept["scaled_dot_product_attention"])
    raised = FLOAT32 if device != "cpu" else ()
    for name in LOWER:
        setattr(functional, name, _lowered(attention if name.startswith("scaled") else kept[name]))
    for name in raised:
        setattr(functional, name, _raised(kept[name]))
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(functional, name, function)


def _attention(ordinary: Callable[..., Tensor], query: Tensor, *others: Any, **options: Any) -> Tensor:
    return (_fused if query.is_meta else ordinary)(query, *others, **options)


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """torch's memory-efficient attention; its siblings keep the same for the way back. A mask would change no size."""
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    options = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    attend = torch.ops.aten._scaled_dot_product_efficient_attention
    return attend(query, key, value, None, keep, **options)[0]


def _lowered(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args, **options: function(
        *(_cast(arg, torch.get_autocast_dtype("cpu")) for arg in args), **options
    )


def _raised(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(*args: Any, **options: Any) -> Tensor:
        options = {name: _cast(value, torch.float32) for name, value in options.items()}
        return function(*(_cast(arg, torch.float32) for arg in args), **options)

    return call


def _cast(value: Any, dtype: torch.dtype) -> Any:
    wanted = isinstance(value, Tensor) and value.is_meta and value.is_floating_point()
    return value.to(dtype) if wanted and torch.is_autocast_enabled("cpu") else value
