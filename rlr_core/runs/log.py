"""The event log: `events.jsonl`, append-only, one JSON object per line with a sequence number.

A resumed run goes on from a checkpoint and appends {"type": "resumed", "after": n}: events after n until there are void, since
the same iterations come again. How far the painting of pictures has come ("painting") counts until something else is told: it
says what a run is doing, and an interrupted painting begins anew. `read` returns what counts, without a line torn by a crash.
A `Follower` gives what is new.
"""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rlr_core.errors import RLRError, RunError
from rlr_core.storage import storing


def read(path: Path) -> list[dict[str, Any]]:
    """The events that count, in order. Wall-clock facts are under "clock", so that the rest can be compared."""
    return counting([], _lines(path))


def counting(known: list[dict[str, Any]], new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What counts of the events `known`, which all did, and of those that came after them."""
    events = list(known)
    for event in new:
        while events and events[-1]["type"] == "painting" != event["type"]:
            events.pop()
        if event["type"] == "resumed":
            events = [kept for kept in events if kept["seq"] <= event["after"]]
        else:
            events.append(event)
    return events


@dataclass
class Follower:
    """Reads an event log as it grows, every byte once. To go on with it in another process, keep `offset` and `sequence`.

    Attributes:
        path: of the log, which need not be there yet.
        offset: in bytes, up to which it was read; a number that no line begins at means: from the start.
        sequence: number of the last event that was given, or after which they are wanted.
    """

    path: Path
    offset: int = 0
    sequence: int = 0

    def new(self) -> list[dict[str, Any]]:
        """The events that have come since the last call, at once: none, if there are none.

        A "resumed" event is among them: those after its "after", given before, are void (`counting` takes them away). A line
        that is still being written, or was torn by a crash, comes when it is whole. Raises `RunError` for a damaged one.
        """
        events = [event for event in self._read() if event["seq"] > self.sequence]
        self.sequence = max((event["seq"] for event in events), default=self.sequence)
        return events

    def _read(self) -> list[dict[str, Any]]:
        try:
            with self.path.open("rb") as file:
                self._find(file)
                whole, end, _torn = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        events = _parsed_lines(whole, self.path, self.offset)
        self.offset += len(whole) + len(end)
        return events

    def _find(self, file: BinaryIO) -> None:
        """Go to where the last call ended; to the start where the log is another one, or shorter than it was."""
        file.seek(max(self.offset - 1, 0))
        if self.offset and file.read(1) != b"\n":
            self.offset = 0
            file.seek(0)


def _lines(path: Path) -> list[dict[str, Any]]:
    return Follower(path).new()


def _parsed_lines(lines: bytes, path: Path, offset: int) -> list[dict[str, Any]]:
    """Whole lines, the first of which begins at byte `offset` of the file `path`."""
    events = []
    for line in lines.splitlines(keepends=True):
        events.append(_parsed(line, offset, path))
        offset += len(line)
    return events


def _parsed(line: bytes, offset: int, path: Path) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:
        number = path.read_bytes()[:offset].count(b"\n") + 1
        raise RunError(
            f"line {number} of {path} is damaged: {line[:40]!r}",
            "a JSON object",
            "restore the file, or remove the line",
        ) from None


class EventLog:
    """Appends to an event log. Opening it removes a torn last line."""

    def __init__(self, path: Path):
        self.path = path
        with storing(path):
            if path.exists():
                data = path.read_bytes()
                os.truncate(path, data.rfind(b"\n") + 1)
        self.sequence = max((event["seq"] for event in _lines(path)), default=0)

    def append(self, kind: str, /, clock: dict[str, float] | None = None, **facts: Any) -> int:
        """Write one event and push it to the disk; returns its sequence number."""
        self.sequence += 1
        clock = {"time": round(time.time(), 3), **(clock or {})}
        event = {"seq": self.sequence, "type": kind, **_finite(facts), "clock": _finite(clock)}
        line = json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"
        with storing(self.path), self.path.open("ab") as file:
            file.write(line.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        return self.sequence

    def failed(self, error: Exception) -> None:
        """Append why the run failed: what the user can put right, or else where it happened."""
        told = str(error) if isinstance(error, RLRError) else "".join(traceback.format_exception(error))
        self.append("failed", message=told)


def _finite(value: Any) -> Any:
    """JSON has no NaN: it becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
