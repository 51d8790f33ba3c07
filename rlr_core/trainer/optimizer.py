"""Adam (arXiv 1412.6980), as torch has it or with moments of 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlr_core.errors import ConfigError
from rlr_core.estimators.problem import flatten

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


@dataclass(frozen=True)
class Moments:
    """What torch's Adam has gathered.

    Attributes:
        count: of the gradients.
        mean: (P,) m̂, the first moment, corrected for its start.
        step: (P,) m̂/(√v̂ + ε), what a rate of 1 subtracts.
    """

    count: int
    mean: Tensor
    step: Tensor


@torch.no_grad()
def moments(
    optimizer: torch.optim.Adam, parameters: Sequence[Tensor], gradient: Tensor | None = None
) -> Moments:
    """As they are, or as they will be once `gradient` (P,) is there, too; before the first one they are 0."""
    (first, second), epsilon = (optimizer.param_groups[0][name] for name in ("betas", "eps"))
    states = [optimizer.state.get(p) for p in parameters]
    count = int(states[0]["step"]) if states[0] else 0
    zero = torch.zeros_like(parameters[0]).sum()
    m, v = (
        flatten(
            state[name] if state else zero.expand_as(p) for state, p in zip(states, parameters, strict=True)
        )
        for name in ("exp_avg", "exp_avg_sq")
    )
    if gradient is not None:
        count, m, v = count + 1, m.lerp(gradient, 1 - first), v.lerp(gradient.square(), 1 - second)
    if not count:
        return Moments(0, m, m)
    mean = m / (1 - first**count)
    return Moments(count, mean, mean / ((v / (1 - second**count)).sqrt() + epsilon))
