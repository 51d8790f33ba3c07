"""The event log: `events.jsonl`, append-only, one JSON object per line with a sequence number.

A resumed run goes on from a checkpoint and appends {"type": "resumed", "after": n}: events after n until there are void, since
the same iterations come again. How far the painting of pictures has come ("painting") counts until something else is told: it
says what a run is doing, and an interrupted painting begins anew. `read` returns what counts, without a line torn by a crash.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from rlr_core.errors import RunError
from rlr_core.storage import storing


def read(path: Path) -> list[dict[str, Any]]:
    """The events that count, in order. Wall-clock facts are under "clock", so that the rest can be compared."""
    events: list[dict[str, Any]] = []
    for event in _lines(path):
        while events and events[-1]["type"] == "painting" != event["type"]:
            events.pop()
        if event["type"] == "resumed":
            events = [kept for kept in events if kept["seq"] <= event["after"]]
        else:
            events.append(event)
    return events


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    whole, _, _torn = path.read_bytes().rpartition(b"\n")
    return [_parsed(line, number, path) for number, line in enumerate(whole.splitlines(), 1)]


def _parsed(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:
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


def _finite(value: Any) -> Any:
    """JSON has no NaN: it becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
