"""What operations on `meta` give and cost, worked out once: torch does that in Python, ten times slower than a look-up."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from rlr_core.planner.live import tensors_in

VALUES = (bool, int, float, str, torch.dtype, torch.layout, torch.memory_format, torch.device, type(None))


class Sizes(NamedTuple):
    """Of a new tensor."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def made(self) -> Tensor:
        """Such a tensor."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


Outcome = Sizes | int | None
"""A new tensor, an argument's number, or nothing."""
AGAIN = "carry it out every time"


class Unfit(Exception):
    """A result that sizes alone do not tell."""


class Shapes:
    """Remembers what operations give: new tensors, whose sizes follow from the arguments, or arguments that they have changed.

    What makes views, reads tensors that are not on `meta` or changes the shape of an argument is carried out every time.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, float]:
        """What `func` gives for these arguments, and its floating-point operations."""
        try:
            key = _key(func, args, kwargs)
            if key in self._known:
                outcome, flops = self._known[key]
                return _given_again(outcome, args), flops
        except Unfit:
            return _carried_out(func, args, kwargs)
        out, flops = _carried_out(func, args, kwargs)
        try:
            outcome = _outcome(out, args, kwargs)
        except Unfit:
            outcome = AGAIN
        self._known[key] = (outcome if key == _key(func, args, kwargs) else AGAIN), flops
        return out, flops


def _carried_out(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, float]:
    out, formula = func(*args, **kwargs), flop_registry.get(func._overloadpacket)
    if formula and any(isinstance(arg, Tensor) and arg.is_meta for arg in args):
        return out, formula(*args, **kwargs, out_val=out)
    return out, 0


def _key(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """All that the result's sizes depend on."""
    return func, tuple(map(_facts, args)), tuple((name, _facts(value)) for name, value in kwargs.items())


def _facts(value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.is_meta:
            return value.shape, value.stride(), value.dtype
        raise Unfit  # its numbers may count
    if isinstance(value, list | tuple):
        return tuple(map(_facts, value))
    if isinstance(value, VALUES):
        return type(value), value
    raise Unfit


def _outcome(out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome | list[Outcome]:
    """How to give `out` again."""
    given = {tensor.untyped_storage()._cdata for tensor in tensors_in((args, kwargs))}
    if isinstance(out, tuple):
        return [_part(tensor, args, given) for tensor in out]
    return _part(out, args, given)


def _part(out: Any, args: tuple[Any, ...], given: set[int]) -> Outcome:
    """`given`: the storages that are not new; that of `out` is added to them."""
    if out is None:
        return None
    place = next((number for number, arg in enumerate(args) if arg is out), None)
    if place is not None:
        return place
    if not isinstance(out, Tensor) or not out.is_meta or out.untyped_storage()._cdata in given:
        raise Unfit
    sizes = Sizes(out.shape, out.stride(), out.dtype)
    if out.untyped_storage().nbytes() != sizes.made().untyped_storage().nbytes():
        raise Unfit
    given.add(out.untyped_storage()._cdata)
    return sizes


def _given_again(outcome: Any, args: tuple[Any, ...]) -> Any:
    if isinstance(outcome, Sizes):
        return outcome.made()
    if isinstance(outcome, list):
        return tuple(_given_again(part, args) for part in outcome)
    if outcome is AGAIN:
        raise Unfit
    return None if outcome is None else args[outcome]
