"""Out of inference mode, in which ComfyUI runs every node.

What was made in that mode cannot be kept for a backward pass, even after the mode is left. So each parameter and buffer is
replaced, for as long as training takes, by another tensor on the same memory: nothing is copied, and the host's own come back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


@contextmanager
def trainable(*networks: nn.Module) -> Iterator[None]:
    """Inside, gradients flow through `networks`, whose own weights want none; afterwards, also on error, all is as before."""
    with torch.inference_mode(False), torch.enable_grad():
        before: list[tuple[dict[str, Any], str, Any]] = [
            (table, name, value)
            for network in networks
            for module in network.modules()
            for table in (module._parameters, module._buffers)
            for name, value in table.items()
            if value is not None
        ]
        try:
            for table, name, value in before:
                table[name] = _same_memory(value)
            yield
        finally:
            for table, name, value in before:
                table[name] = value


def _same_memory(value: Any) -> Any:
    alias = alias_of(value)
    return nn.Parameter(alias, requires_grad=False) if isinstance(value, nn.Parameter) else alias


def alias_of(value: Tensor) -> Tensor:
    """An ordinary tensor on the memory of `value`; to be asked for outside inference mode.

    Quantised weights are made of several tensors, which torch's protocol for such classes takes apart and puts together.
    """
    value = value.detach()
    if is_traceable_wrapper_subclass(value):
        whole: Any = value
        names, rest = whole.__tensor_flatten__()
        parts = {name: alias_of(getattr(whole, name)) for name in names}
        return type(whole).__tensor_unflatten__(parts, rest, whole.shape, whole.stride())
    if not value.is_inference():
        return value
    empty = torch.empty(0, dtype=value.dtype, device=value.device)
    return empty.set_(value.untyped_storage(), value.storage_offset(), value.shape, value.stride())  # pyright: ignore
