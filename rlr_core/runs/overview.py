"""What a run's log tells, in short, and kept beside it as `overview.json`: whoever looks at 2,000 runs reads no log twice.

The log is the truth. An overview says up to which byte of it it goes, and how the log looked there; what has come since is
read and taken in, and an overview that is damaged, of another log or of another version of RLR counts as none.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rlr_core import __version__
from rlr_core.config import load
from rlr_core.errors import RLRError, StorageError
from rlr_core.runs import log
from rlr_core.runs.summary import Comparison, compared
from rlr_core.storage import read_bytes, write_text

LONGEST = 2**24
"""Bytes of an overview: it has the scores of the evaluation before training."""
RETURNS = 8
"""Checkpoints that a run may go back to without its log being read from the start; runs keep fewer."""
BEGINS = '"overview": '
"""What of the file the checksum before it is of begins with this."""
SEEN = 64
"""Bytes of the log before `offset` by which it is known again: the end of a line, which has a time in milliseconds."""


@dataclass(frozen=True)
class Facts:
    """What the events that count tell.

    Attributes:
        since: number of the event that changed them last.
        iteration: done.
        first, latest: mean reward of the first and the latest iteration, None before there are any.
        held_out, trained: the evaluations before and after training by the two rewards, where there are both.
        alarm: what raised the alarm last.
        unreadable: damaged lines among them.
    """

    since: int = 0
    iteration: int = 0
    first: float | None = None
    latest: float | None = None
    held_out: Comparison | None = None
    trained: Comparison | None = None
    alarm: str = ""
    unreadable: int = 0


@dataclass
class Overview:
    """A run as its log tells it, up to a byte of it.

    Attributes:
        version: of RLR, which may count otherwise tomorrow.
        offset, seen: up to where the log was read, in bytes, and its last bytes before.
        stamp: size and time of the log file then.
        sequence, last: number and type of the last event.
        failure: why the run failed, if that was its last event.
        started, updated: when the first and the last event came, in seconds since 1970.
        facts: of the events that count.
        before: number, held-out scores and rewards of the evaluation before training; the one after is compared with it.
        past: the facts of checkpoints, each with the number of the last event for which they held.
        checkpointed: whether a run may go back to `facts`.
        config: size and time of the config file when it was read.
        iterations: that it asks for.
        problem: why it cannot be used.
    """

    version: str = __version__
    offset: int = 0
    seen: str = ""
    stamp: list[int] = field(default_factory=list)
    sequence: int = 0
    last: str = ""
    failure: str = ""
    started: float | None = None
    updated: float | None = None
    facts: Facts = field(default_factory=Facts)
    before: list[Any] = field(default_factory=list)
    past: list[list[Any]] = field(default_factory=list)
    checkpointed: bool = True
    config: list[int] | None = None
    iterations: int = 0
    problem: str = ""

    @classmethod
    def read(cls, file: Path) -> Overview:
        """The one that was kept; an empty one where there is none that can be used."""
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            data = read_bytes(file, LONGEST)
            kept = json.loads(data)
            told = kept["overview"]
            if kept["check"] == _check(data) and told["version"] == __version__:
                told["facts"] = _facts(told["facts"])
                told["past"] = [[until, _facts(facts)] for until, facts in told["past"]]
                return cls(**told)
        return cls()

    def save(self, file: Path) -> None:
        """Keep it, if there is a log. Where that cannot be, as on a disk that is only read, whoever looks reads it again."""
        if not self.stamp:
            return
        told = f"{BEGINS}{json.dumps(asdict(self))}}}\n"
        with suppress(OSError, StorageError):
            if file.parent.is_dir():  # a run that was deleted stays so
                write_text(file, f'{{"check": {_check(told.encode())}, {told}', durable=False)

    def follow(self, events_file: Path) -> Overview:
        """The overview of the log as it is now: this very one, if nothing has come. Raises `RunError`."""
        stamp = _stamp(events_file)
        if stamp == self.stamp:
            return self
        found = replace(self) if self._is_of(events_file) else Overview()
        follower = log.Follower(events_file, found.offset, found.sequence)
        try:
            found._take(follower.each())
        except _TooFarBack:
            found, follower = Overview(), log.Follower(events_file)
            found._take_anew(follower.each())
        found.stamp, found.offset, found.sequence = stamp, follower.offset, follower.sequence
        found.seen = _seen(events_file, found.offset)
        return found

    def of_config(self, file: Path) -> Overview:
        """The overview with the config as it is now: this very one, if that is as it was."""
        stamp = _stamp(file)
        if stamp == self.config:
            return self
        try:
            return replace(self, config=stamp, iterations=load(file).training.iterations, problem="")
        except RLRError as error:
            return replace(self, config=stamp, problem=str(error))

    def _is_of(self, events_file: Path) -> bool:
        """Whether the log begins as it did when it was read."""
        return _seen(events_file, self.offset) == self.seen

    def _take(self, events: Iterable[dict[str, Any]]) -> None:
        for event in map(self._noticed, events):
            self._learn(event["type"], event["seq"], event)

    def _take_anew(self, events: Iterable[dict[str, Any]]) -> None:
        """All of a log at once: of what is void nothing is learned, however far the run went back."""
        for event in log.counting([], map(self._noticed, events)):
            self._learn(event["type"], event["seq"], event)

    def _noticed(self, event: dict[str, Any]) -> dict[str, Any]:
        """Whether an event counts or not, it was the last one."""
        self.last = event["type"]
        self.failure = event["message"] if self.last == "failed" else ""
        self.updated = _time(event.get("clock")) or self.updated
        self.started = self.started or self.updated
        return event

    def _learn(self, kind: str, number: int, event: dict[str, Any]) -> None:
        facts = self.facts
        match kind:
            case "resumed":
                self._go_back(event["after"])
            case "checkpoint" | "saved" | "stopped":
                self.checkpointed = True
            case "finished":
                self.before, self.past = [], []
            case "iteration":
                first = event["reward"] if facts.first is None else facts.first
                done = max(facts.iteration, event["iteration"])
                self._tell(number, iteration=done, first=first, latest=event["reward"])
            case "skipped":
                self._tell(number, iteration=max(facts.iteration, event["iteration"]))
            case "alarm":
                self._tell(number, alarm=event["message"])
            case "unreadable":
                self._tell(number, unreadable=facts.unreadable + 1)
            case "evaluation" if event["when"] == "before":
                self.before = [number, event["scores"], event["rewards"]]
            case "evaluation" if event["when"] == "after" and self.before:
                _, scores, rewards = self.before
                held_out, trained = compared(scores, event["scores"]), compared(rewards, event["rewards"])
                self._tell(number, held_out=held_out, trained=trained)

    def _tell(self, number: int, **changes: Any) -> None:
        """Event `number` changes the facts; those of a checkpoint are kept."""
        if self.checkpointed:
            self.past = [*self.past, [number - 1, self.facts]][-RETURNS:]
        self.checkpointed = False
        self.facts = replace(self.facts, since=number, **changes)

    def _go_back(self, after: int) -> None:
        """Take the facts as they were after event `after`."""
        self.checkpointed = True
        if self.before and self.before[0] > after:
            self.before = []
        if self.facts.since <= after:
            return
        held = [facts for until, facts in self.past if facts.since <= after <= until]
        if not held:
            raise _TooFarBack
        self.facts = held[-1]
        self.past = [[until, facts] for until, facts in self.past if until < after]


class _TooFarBack(Exception):
    """The run went back to where no facts were kept."""


def _facts(told: dict[str, Any]) -> Facts:
    pairs = {name: told[name] and Comparison(**told[name]) for name in ("held_out", "trained")}
    return Facts(**{**told, **pairs})


def _check(data: bytes) -> int:
    """Of the text as it stands in the file: a list of 2,000 runs has no time to write it once more."""
    return zlib.crc32(data[data.index(BEGINS.encode()) :])


def _time(clock: Any) -> float | None:
    told = clock.get("time") if isinstance(clock, dict) else None
    return told if isinstance(told, (int, float)) else None


def _stamp(file: Path) -> list[int]:
    """Size and time of a file, by which it is seen to be as it was; [] where there is none."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _seen(events_file: Path, offset: int) -> str:
    """The log's last bytes before `offset`; fewer where it is shorter."""
    with suppress(FileNotFoundError), log.opened(events_file) as file:
        file.seek(max(offset - SEEN, 0))
        return file.read(min(SEEN, offset)).hex()
    return ""
