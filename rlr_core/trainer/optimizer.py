"""Adam, as torch has it or with moments of 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlr_core.errors import ConfigError


def adam(parameters: Sequence[Tensor], learning_rate: float, kind: str) -> Any:
    """The optimizer `kind`, "adam" or "adam8bit" (arXiv 2110.02861). Raises `ConfigError` without bitsandbytes."""
    if kind == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate)
    try:
        from bitsandbytes.optim import Adam8bit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            "memory.optimizer = 'adam8bit' without bitsandbytes",
            "the bitsandbytes library",
            "pip install 'rlr[adam8bit]', or set memory.optimizer = 'adam'",
        ) from None
    return Adam8bit(parameters, lr=learning_rate)
