"""The bytes of tensors that live at the same time."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

REST = "the way back, reward and the rest"


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all storages that are made inside and still live.

    Attributes:
        now: bytes that live.
        peak: the most there ever were.
        at_peak: those bytes by the part that made them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.at_peak: dict[str, int] = {}
        self._by_part: Counter[str] = Counter()
        self._part = REST
        self._known: dict[int, Any] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled inside, and to say so at every operation takes longer than to count it."""
        return False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is made inside is `name`'s."""
        before, self._part = self._part, name
        try:
            yield
        finally:
            self._part = before

    def touch(self, more: int) -> None:
        """There are `more` bytes for a moment."""
        if self.now + more > self.peak:
            self.peak, self.at_peak = self.now + more, dict(self._by_part)
            self.at_peak[self._part] = self.at_peak.get(self._part, 0) + more

    def restart(self) -> None:
        """Forget the peak that was."""
        self.peak = 0
        self.touch(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._overlook((args, kwargs or {}))
        out = func(*args, **(kwargs or {}))
        self.count(out)
        return out

    def count(self, made: Any) -> None:
        """Count the tensors in `made` that are not known yet."""
        for tensor in tensors_in(made):
            if self.counts(tensor):
                self._count(tensor.untyped_storage())

    def counts(self, tensor: Tensor) -> bool:
        """Whether this one counts."""
        return True

    def _overlook(self, given: Any) -> None:
        """What was there before does not count, nor do views of it."""
        for tensor in tensors_in(given):
            self._know(tensor.untyped_storage(), 0)

    def _count(self, storage: torch.UntypedStorage) -> None:
        if self._know(storage, storage.nbytes()):
            self.touch(0)

    def _know(self, storage: torch.UntypedStorage, size: int) -> bool:
        """Whether it is new."""
        key = storage._cdata
        if key in self._known:
            return False
        self._by_part[self._part] += size
        self.now += size
        part = self._part
        self._known[key] = weakref.ref(storage, lambda _: self._forget(key, size, part))
        return True

    def _forget(self, key: int, size: int, part: str) -> None:
        del self._known[key]
        self._by_part[part] -= size
        self.now -= size


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Those in an operation's arguments or its result."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
