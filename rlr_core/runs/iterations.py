"""The iterations of a run as columns of numbers: of a long log, what is drawn and counted, and not its events."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

FACTS = "norm", "standard_error", "weight"
"""Of a part of the gradient, what its event tells."""


class Iterations:
    """Iterations of one kind of event, taken or skipped, in order. A number that an event lacks, or has as null, is NaN.

    Attributes:
        numbers: of the iterations.
        rewards, errors: mean reward of each batch and its standard error.
        seconds: that each took.
        parts: of each part of the gradient a column for each of `FACTS`.
        latest: the event that was added last, {} before there is any.
    """

    def __init__(self):
        self._sequences, self.numbers = array("d"), array("d")
        self.rewards, self.errors, self.seconds = array("d"), array("d"), array("d")
        self.parts: dict[str, dict[str, array[float]]] = {}
        self.latest: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, event: dict[str, Any]) -> None:
        """Take up an event of the log."""
        parts = _table(event.get("parts"))
        for name in parts:
            if name not in self.parts:
                self.parts[name] = {fact: array("d", [math.nan] * len(self)) for fact in FACTS}
        for name, columns in self.parts.items():
            for fact, column in columns.items():
                column.append(_number(_table(parts.get(name)).get(fact)))
        self._sequences.append(event["seq"])
        self.numbers.append(event["iteration"])
        self.rewards.append(_number(event.get("reward")))
        self.errors.append(_number(event.get("reward_error")))
        self.seconds.append(_number(_table(event.get("clock")).get("seconds")))
        self.latest = event

    def go_back(self, after: int) -> None:
        """Forget what came after event `after`."""
        keep = bisect_right(self._sequences, after)
        of_parts = [column for columns in self.parts.values() for column in columns.values()]
        for column in (self._sequences, self.numbers, self.rewards, self.errors, self.seconds, *of_parts):
            del column[keep:]

    @property
    def done(self) -> int:
        """The highest number; 0 before there is any."""
        return int(max(self.numbers, default=0))


def spread(count: int, most: int) -> list[int]:
    """Up to `most` (2 or more) of the indices 0 … count - 1 at equal distances, the first and the last one among them."""
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


def _table(value: Any) -> Mapping[str, Any]:
    """What of a damaged log is no table has nothing in it."""
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        return math.nan
