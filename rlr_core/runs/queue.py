"""Runs that wait for their turn: one after the other, each in a process of its own.

The truth is in the runs' folders: a run waits while "queued" is the last event of its log. `queue.json` beside them says in
which order, and which run was found at work last. Where it is gone or damaged, those that wait are found again, in the order
of time.

Nobody has to live for the queue to go on: every worker calls `advance` when it lets go of its run, and so does whoever looks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from rlr_core.config import RunConfig
from rlr_core.errors import RLRError, RunError
from rlr_core.runs import log
from rlr_core.runs.deleting import delete_unbegun
from rlr_core.runs.directory import RUNS, RunDirectory, reserved_folder
from rlr_core.storage import read_bytes, storing, write_text

LONGEST = 2**22
"""Bytes of a queue's file."""
PATIENCE = 10.0
"""Seconds for which the queue is waited for, while another process changes it or starts a run."""


@dataclass(frozen=True)
class _Notes:
    """What `queue.json` holds.

    Attributes:
        waiting: names of run folders, in order. One that does not wait any more counts for nothing.
        last: name of the folder that was seen at work last: where that still is, no other has to be looked at.
    """

    waiting: list[str]
    last: str = ""


class Queue:
    """The runs in the folder `root` that wait for their turn."""

    def __init__(self, root: Path = RUNS):
        self.root = Path(root)
        self.file = self.root / "queue.json"

    def add(self, config: RunConfig, name: str = "") -> Path:
        """A new run, `root/NAME-001` or the next number that is free, that waits for its turn; returns its folder.

        Raises `RLRError` as `launch` does.
        """
        from rlr_core.runs.launching import startable  # needs torch, and a view does not

        config = startable(config)
        with self._locked():
            directory = RunDirectory(reserved_folder(self.root, name or config.output.name))
            with directory.held():
                self._append(directory)
                directory.create(config)
                log.EventLog(directory.events_file).append("queued")
        return directory.folder

    def resume(self, folder: Path) -> None:
        """Let a run that is not finished wait for its turn to go on. Raises `RunError` as `launch_resume` does."""
        from rlr_core.runs.launching import prepare_to_go_on

        directory = self._own(folder)
        with directory.held():
            prepare_to_go_on(directory)
        with self._locked(), directory.held():
            directory.refuse_if_finished()
            self._append(directory)
            log.EventLog(directory.events_file).append("queued")

    def waiting(self) -> list[Path]:
        """The folders of the runs that wait, the next one first."""
        return [self.root / name for name in self._read().waiting if _waits(RunDirectory(self.root / name))]

    def move(self, folder: Path, place: int) -> None:
        """Let a run wait at `place`, 0 being the next one. Raises `RunError` for one that does not wait."""
        with self._locked():
            name, others, last = self._taken_out(folder)
            others.insert(max(place, 0), name)
            self._write(_Notes(others, last))

    def remove(self, folder: Path) -> None:
        """Let a run wait no more: one that never began is deleted, another one is stopped, and can be resumed.

        Raises `RunError` for one that does not wait.
        """
        with self._locked():
            name, others, last = self._taken_out(folder)
            directory = RunDirectory(self.root / name)
            if _began(directory):
                _stop(directory)
            else:
                delete_unbegun(directory)
            self._write(_Notes(others, last))

    def advance(self) -> Path | None:
        """Start the next run, if none of this folder is at work on this computer; returns its folder.

        One that cannot be started has failed, as its log then tells, and the next one is tried. Quick where there is nothing to
        do: to be called as often as a view is drawn. Processes that call it at the same moment start one run.
        """
        notes = self._read()
        if not notes.waiting or self._is_at_work(notes.last):
            return None
        with self._locked():
            notes = self._read()
            if at_work := self._at_work(notes.last):
                self._write(_Notes(notes.waiting, at_work))
                return None
            return self._start_next(notes)

    def _start_next(self, notes: _Notes) -> Path | None:
        from rlr_core.runs.launching import launch_queued

        waiting, started = list(notes.waiting), None
        for name in notes.waiting:
            directory = RunDirectory(self.root / name)
            with suppress(OSError, RLRError):  # its folder cannot be read or written now: it waits on
                started = name if directory.is_queued and launch_queued(directory) else None
                waiting.remove(name)
                if started:
                    break
        self._write(_Notes(waiting, started or notes.last))
        return self.root / started if started else None

    def _at_work(self, last: str) -> str:
        """Name of a folder whose run is at work on this computer, "" if there is none; that of `last` is looked at first."""
        if self._is_at_work(last):
            return last
        with os.scandir(self.root) as entries:
            return next((entry.name for entry in entries if self._is_at_work(entry.name)), "")

    def _is_at_work(self, name: str) -> bool:
        directory = RunDirectory(self.root / name)
        worker = directory.worker if name else None
        with suppress(OSError, RLRError):
            return bool(worker and worker.lives and directory.is_active)
        return False

    def _own(self, folder: Path) -> RunDirectory:
        """A run of this queue's folder. Raises `RunError` for another one."""
        if os.path.realpath(Path(folder).parent) != os.path.realpath(self.root):
            raise RunError(
                f"{folder} in the queue of {self.root}", "a run in that folder", "name one of these"
            )
        return RunDirectory.open(Path(folder))

    def _taken_out(self, folder: Path) -> tuple[str, list[str], str]:
        """The name of a run that waits, those of the others, and `last`. The lock is held by the caller."""
        notes, name = self._read(), self._own(folder).folder.name
        if name not in notes.waiting or not _waits(RunDirectory(folder)):
            raise RunError(
                f"the run {folder} does not wait", "a run that is queued", "`rlr queue` lists them"
            )
        return name, [other for other in notes.waiting if other != name], notes.last

    def _append(self, directory: RunDirectory) -> None:
        """Note it before its log says that it waits: a process that is killed in between leaves no run that is forgotten."""
        notes, name = self._read(), directory.folder.name
        others = [other for other in notes.waiting if other != name]
        self._write(_Notes([*others, name], notes.last))

    def _read(self) -> _Notes:
        """What is noted, or else what is found."""
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            told = json.loads(read_bytes(self.file, LONGEST))
            names, last = list(dict.fromkeys(told["waiting"])), told["last"]
            if all(map(_is_plain, names)) and (last == "" or _is_plain(last)):
                return _Notes(names, last)
        with suppress(OSError):
            return _Notes(list(_found(self.root.absolute(), os.stat(self.root).st_mtime_ns)))
        return _Notes([])

    def _write(self, notes: _Notes) -> None:
        write_text(self.file, json.dumps(asdict(notes), indent=1) + "\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the queue, so that no two processes change it. Raises `RunError` where another one does for long."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / "queue.lock")
        try:
            with storing(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=PATIENCE)
        except Timeout:
            raise RunError(
                f"the queue of {self.root} is in use by another process",
                "a queue that nobody changes",
                "try again in a moment",
            ) from None
        try:
            yield
        finally:
            lock.release()


def _waits(directory: RunDirectory) -> bool:
    """Whether a run waits for its turn, as far as can be told: one whose log cannot be read now is not given up."""
    with suppress(OSError, RLRError):
        return directory.is_queued
    return True


def _began(directory: RunDirectory) -> bool:
    """Whether anything ever happened to a run but that it was queued."""
    return any(event["type"] != "queued" for event in log.Follower(directory.events_file).each())


def _stop(directory: RunDirectory) -> None:
    """Let the log say that the run goes on no more, until it is resumed."""
    with directory.held():
        iteration = directory.keep_overview().facts.iteration
        log.EventLog(directory.events_file).append("stopped", iteration=iteration)


def _is_plain(name: str) -> bool:
    """Whether it is the name of something in a folder, and no way out of it."""
    return name not in ("", ".", "..") and Path(name).name == name and "\0" not in name


@lru_cache(maxsize=8)
def _found(root: Path, changed: int) -> tuple[str, ...]:
    """Names of the run folders in `root` whose log says that they wait, in order of time.

    Where nothing waits, nothing is written either: `changed`, when the folder was, keeps views from looking every second.
    """
    with os.scandir(root) as entries:
        logs = {entry.name: RunDirectory(Path(entry.path)).events_file for entry in entries if entry.is_dir()}
    found: list[tuple[float, str]] = []
    for name, file in logs.items():
        with suppress(OSError, RLRError):
            if log.ending(file).type == "queued":
                found.append((os.path.getmtime(file), name))
    return tuple(name for _, name in sorted(found))
