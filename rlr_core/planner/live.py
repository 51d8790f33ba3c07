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
from torch.utils._pytree import tree_leaves

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
        self.at_peak: Counter[str] = Counter()
        self._by_part: Counter[str] = Counter()
        self._part = REST
        self._known: set[int] = set()

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
            self.peak, self.at_peak = self.now + more, self._by_part.copy()
            self.at_peak[self._part] += more

    def restart(self) -> None:
        """Forget the peak that was."""
        self.peak = 0
        self.touch(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._overlook((args, kwargs))
        out = func(*args, **(kwargs or {}))
        self.count(out)
        return out

    def count(self, made: Any) -> None:
        """Count the tensors in `made` that are not known yet."""
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and self.counts(leaf):
                self._count(leaf.untyped_storage())

    def counts(self, tensor: Tensor) -> bool:
        """Whether this one counts."""
        return True

    def _overlook(self, given: Any) -> None:
        """What was there before does not count, nor do views of it."""
        for leaf in tree_leaves(given):
            if isinstance(leaf, Tensor):
                self._know(leaf.untyped_storage(), 0)

    def _count(self, storage: torch.UntypedStorage) -> None:
        if self._know(storage, storage.nbytes()):
            self.touch(0)

    def _know(self, storage: torch.UntypedStorage, size: int) -> bool:
        """Whether it is new."""
        key = storage._cdata
        if key in self._known:
            return False
        self._known.add(key)
        self._by_part[self._part] += size
        self.now += size
        weakref.finalize(storage, self._forget, key, size, self._part)
        return True

    def _forget(self, key: int, size: int, part: str) -> None:
        self._known.discard(key)
        self._by_part[part] -= size
        self.now -= size
