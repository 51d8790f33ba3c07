"""What norms keep for the way back, guarded from networks that add to it in place, as FLUX's blocks do.

torch refuses such a backward pass. Where the network is run again on the way back (`checkpoint_denoiser`) it would not notice,
and the gradient would be wrong. So each norm is given a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

NORMS = nn.LayerNorm, nn.RMSNorm


@contextmanager
def kept_inputs(network: nn.Module) -> Iterator[None]:
    """Inside, gradients through `network` are right, whatever it does to its own intermediate values."""
    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, NORMS):
                stack.callback(module.register_forward_pre_hook(_copied).remove)
        yield


def _copied(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.clone() if isinstance(value, Tensor) and value.requires_grad else value for value in inputs
    )
