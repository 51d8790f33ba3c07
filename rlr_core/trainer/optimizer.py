"""Adam, as torch has it or with moments of 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlr_core.errors import ConfigError

SMALLEST = 4096
"""Numbers of a tensor whose moments bitsandbytes keeps in 8 bits; those of smaller ones stay float32."""


def adam(parameters: Sequence[Tensor], learning_rate: float, kind: str) -> Any:
    """The optimizer `kind`, "adam" or "adam8bit" (arXiv 2110.02861); on "meta" the plain one stands for both.

    Raises `ConfigError` without bitsandbytes, or where it cannot compute on the parameters' device.
    """
    device = parameters[0].device
    if kind == "adam" or device.type == "meta":
        return torch.optim.Adam(parameters, lr=learning_rate)
    try:
        from bitsandbytes.optim import Adam8bit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            "memory.optimizer = 'adam8bit' without bitsandbytes",
            "the bitsandbytes library",
            "pip install 'rlr[adam8bit]', or set memory.optimizer = 'adam'",
        ) from None
    _check_step(Adam8bit, device)
    return Adam8bit(parameters, lr=learning_rate)


def _check_step(kind: Any, device: torch.device) -> None:
    """Whether it can compute there shows at the first step: better now than after everything was painted."""
    probe = torch.zeros(SMALLEST, device=device, requires_grad=True)
    probe.grad = torch.ones_like(probe)
    try:
        kind([probe], lr=1.0).step()
    except Exception as error:
        raise ConfigError(
            f"memory.optimizer = 'adam8bit', which bitsandbytes does not compute on '{device.type}': {error}",
            "a device that it supports, such as an NVIDIA card",
            "set memory.optimizer = 'adam'",
        ) from error
