"""What torch's `meta` device lacks: attention without the matrix of all pairs, and autocast.

A mode of torch stands in for some of its functions: in this thread alone and only inside its `with`, so that what else the
process computes meanwhile is not touched.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

LOWER = functional.linear, functional.conv2d, functional.scaled_dot_product_attention
"""Functions that autocast lets compute in the lower precision."""
FLOAT32 = functional.group_norm, functional.layer_norm, functional.softmax
"""Those that it lets compute in float32 on a graphics card; on a CPU they keep their input's."""
DOORS = functional.multi_head_attention_forward, torch.autograd.grad
"""Functions written in Python inside which the mode is wanted, too: the way back runs what is checkpointed again."""


class AsOn(TorchFunctionMode):
    """Inside, networks on `meta` compute what they would on a device of the kind `device` ("cuda", "cpu", "mps")."""

    def __init__(self, device: str):
        super().__init__()
        self._raised = FLOAT32 if device != "cpu" else ()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in DOORS:
            return self._inside(func, args, kwargs)
        if func in LOWER:
            args = tuple(_cast(arg, torch.get_autocast_dtype("cpu")) for arg in args)
        elif func in self._raised:
            args = tuple(_cast(arg, torch.float32) for arg in args)
            kwargs = {name: _cast(value, torch.float32) for name, value in kwargs.items()}
        fuse = func is functional.scaled_dot_product_attention and args[0].is_meta
        return (_fused if fuse else func)(*args, **kwargs)

    def _inside(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call `func` under the mode, of which torch lets go while it asks it.

        Its first lines would ask again, without end: a copy of it is called for which there is nobody to ask.
        """
        names = {**func.__globals__, "has_torch_function": lambda tensors: False}
        copy = FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
        copy.__kwdefaults__ = func.__kwdefaults__
        with self:
            return copy(*args, **kwargs)


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
    """torch's memory-efficient attention; its siblings keep the same for the way back. A mask would change no size.

    Queries, keys and values are (…, L, D); whatever is before L is one batch for torch's kernel.
    """
    if enable_gqa:  # each head of keys and values serves several of the queries'
        heads = query.shape[-3]
        key, value = (x.repeat_interleave(heads // x.shape[-3], -3) for x in (key, value))
    batch = torch.broadcast_shapes(*(x.shape[:-2] for x in (query, key, value)))
    if len(batch) != 2:
        query, key, value = (
            x.expand(*batch, *x.shape[-2:]).reshape(-1, 1, *x.shape[-2:]) for x in (query, key, value)
        )
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    options = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    attend = torch.ops.aten._scaled_dot_product_efficient_attention
    out = attend(query, key, value, None, keep, **options)[0]
    return out if len(batch) == 2 else out.reshape(*batch, *out.shape[-2:])


def _cast(value: Any, dtype: torch.dtype) -> Any:
    wanted = isinstance(value, Tensor) and value.is_meta and value.is_floating_point()
    return value.to(dtype) if wanted and torch.is_autocast_enabled("cpu") else value
