"""The values of parameters: copied, put back, and lent for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def copies(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Of their values, in main memory."""
    values = [p.detach().clone() for p in parameters]
    return [value if value.is_meta else value.cpu() for value in values]


@torch.no_grad()
def put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Give the parameters these values."""
    for p, value in zip(parameters, values, strict=True):
        p.copy_(value)


@contextmanager
def kept(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Whatever becomes of their values inside, afterwards they are as before, to the last bit."""
    before = [p.detach().clone() for p in parameters]
    try:
        yield
    finally:
        put(parameters, before)
