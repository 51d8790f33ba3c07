"""The event log: `events.jsonl`, append-only, one JSON object per line with a sequence number.

A resumed run goes on from a checkpoint and appends {"type": "resumed", "after": n}: events after n until there are void, since
the same iterations come again. How far the painting of pictures has come ("painting") counts until something else is told: it
says what a run is doing, and an interrupted painting begins anew. `read` returns what counts, without a line torn by a crash.
A `Follower` gives what is new.

A whole line that cannot be read, of a damaged disk or an edit by hand, is the event "unreadable" to whoever reads: what it told
is lost, and nothing else. The run goes on from its checkpoint, which needs no log, and says itself how many events count.
"""

from __future__ import annotations

import json
import math
import os
import stat
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rlr_core.errors import RLRError, RunError
from rlr_core.storage import storing

BLOCK = 1 << 16
"""Bytes that are read at once where a log is read from its end."""
NUMBER = (int, float, type(None))
SCORES = [NUMBER]
TABLE = {"": SCORES}
FACTS: dict[str, dict[str, Any]] = {
    "resumed": {"after": int},
    "iteration": {"iteration": int, "reward": NUMBER},
    "skipped": {"iteration": int},
    "evaluation": {
        "when": str,
        "iteration": int,
        "scores": SCORES,
        "rewards": SCORES,
        "parts": TABLE,
        "watched": TABLE,
        "statistics": TABLE,
    },
    "alarm": {"message": str},
    "failed": {"message": str},
}
"""What an event of some type has at least, or else its line is a damaged one; a table may be absent."""


def read(path: Path) -> list[dict[str, Any]]:
    """The events that count, in order. Wall-clock facts are under "clock", so that the rest can be compared."""
    return counting([], Follower(path).each())


def counting(known: list[dict[str, Any]], new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What counts of the events `known`, which all did, and of those that came after them."""
    events = list(known)
    for event in new:
        while events and events[-1]["type"] == "painting" != event["type"]:
            events.pop()
        if event["type"] != "resumed":
            events.append(event)
            continue
        while events and events[-1]["seq"] > event["after"]:  # from the end: each event goes but once
            events.pop()
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
        that is still being written, or was torn by a crash, comes when it is whole. A damaged one comes as "unreadable".
        Raises `RunError` where the log cannot be read at all.
        """
        return list(self.each())

    def each(self) -> Iterator[dict[str, Any]]:
        """`new`, one by one: the log may be larger than the memory."""
        with suppress(FileNotFoundError), opened(self.path) as file:
            self._find(file)
            number = self.sequence if self.offset else 0
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                event = parsed(line, number + 1)
                number = event["seq"]
                if number > self.sequence:
                    self.sequence = number
                    yield event

    def _find(self, file: BinaryIO) -> None:
        """Go to where the last call ended; to the start where the log is another one, or shorter than it was."""
        file.seek(max(self.offset - 1, 0))
        if self.offset and file.read(1) != b"\n":
            self.offset = 0
            file.seek(0)


def opened(path: Path) -> BinaryIO:
    """The log, to be read. Raises `FileNotFoundError` where there is none, `RunError` where it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise OSError(None, "it is no file")
        return path.open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(
            f"{path} cannot be read: {error.strerror}",
            "the log that the run wrote",
            "check the disk and the folder's permissions",
        ) from error


def parsed(line: bytes, number: int) -> dict[str, Any]:
    """The event of a whole line; of a damaged one an "unreadable" event of this number."""
    with suppress(ValueError, TypeError, KeyError, RecursionError, OverflowError):
        event = json.loads(line)
        facts = {"seq": int, "type": str, **FACTS.get(event["type"], {})}
        if all(
            _fits(event[name] if kind is not TABLE else event.get(name, {}), kind)
            for name, kind in facts.items()
        ):
            return event
    return {"seq": number, "type": "unreadable", "line": repr(line[:40])}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a fact is of a kind: a type, several, a list of one, or a table of lists."""
    if isinstance(kind, list):
        return isinstance(value, list) and all(_fits(item, kind[0]) for item in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(_fits(item, kind[""]) for item in value.values())
    return isinstance(value, kind) and (not isinstance(value, (int, float)) or math.isfinite(value))


class Ending(NamedTuple):
    """Where a log ends.

    Attributes:
        offset: in bytes, after its last whole line.
        sequence: number of the event there, 0 before there is any; each damaged line at the end counts as one.
        type: of that event, "" before there is any.
    """

    offset: int = 0
    sequence: int = 0
    type: str = ""


def ending(path: Path) -> Ending:
    """The end of a log, whatever its length. Raises `RunError` where it cannot be read."""
    end = Ending()
    with suppress(FileNotFoundError), opened(path) as file:
        for damaged, (line, offset) in enumerate(_backwards(file)):
            event = parsed(line, 1)
            end = Ending(end.offset or offset, event["seq"] + damaged, end.type or event["type"])
            if event["type"] != "unreadable":
                return end
    return end


def _backwards(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The whole lines of a file, the last one first, each with the byte after it."""
    position, size, read = file.seek(0, os.SEEK_END), BLOCK, b""
    torn = True
    while position:
        size = min(size, position)
        position = file.seek(position - size)
        read = file.read(size) + read
        if torn:
            read = read[: read.rfind(b"\n") + 1]
            torn = not read
        while begin := read.rfind(b"\n", 0, -1) + 1:
            yield read[begin:], position + len(read)
            read = read[:begin]
        size *= 2  # so that a long line is not read again and again
    if read:
        yield read, len(read)


class EventLog:
    """Appends to an event log. Opening it removes a torn last line, and reads no more than the end."""

    def __init__(self, path: Path):
        self.path = path
        end = ending(path)
        with storing(path):
            if path.exists() and path.stat().st_size > end.offset:
                os.truncate(path, end.offset)
        self.sequence = end.sequence

    def append(self, kind: str, /, clock: dict[str, float] | None = None, **facts: Any) -> int:
        """Write one event and push it to the disk; returns its sequence number."""
        self.sequence += 1
        clock = {"time": round(time.time(), 3), **(clock or {})}
        event = {"seq": self.sequence, "type": kind, **_finite(facts), "clock": _finite(clock)}
        line = json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"
        with storing(self.path), self.path.open("ab") as file:
            file.write(
                line.encode("utf-8", "backslashreplace")
            )  # of a file name that is no text: an escape of JSON
            file.flush()
            os.fsync(file.fileno())
        return self.sequence

    def go_back(self, after: int) -> None:
        """Make void what came after event `after`. Where the log has lost some of those before it, that is told."""
        known = self.sequence
        self.sequence = max(known, after)  # or new events would be taken for those that are lost
        self.append("resumed", after=after)
        if known < after:
            message = (
                f"the log has lost its events {known + 1} to {after}; the run needs them for its report alone"
            )
            self.append("warning", message=message)

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
