"""What state a run is in, told from its folder without disturbing it: its lock is not taken, and the disk may be read-only."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlr_core.errors import RLRError
from rlr_core.runs import log
from rlr_core.runs.overview import Overview
from rlr_core.runs.summary import Comparison
from rlr_core.runs.worker import Worker

if TYPE_CHECKING:
    from rlr_core.runs.directory import RunDirectory

QUIET = 900.0
"""Seconds after which a worker of another computer that has written nothing is no longer taken for one at work."""
AT_WORK, TOLD = ("starting", "running"), ("queued", "finished", "stopped", "failed")
"""The states of a run that a process has in its hands, and those that the last event of its log says by itself."""


@dataclass(frozen=True)
class RunState:
    """A run as its folder tells it: all that a line of a list needs.

    Attributes:
        state: "queued" (it waits for its turn), "starting" (a process is about to take it up), "running", "finished",
            "stopped", "failed", "interrupted" (killed, power lost), or "damaged".
        iteration: of `iterations`.
        first, latest: mean reward of the first and the latest iteration, None before there are any: one batch each.
        message: why it failed, what raised the alarm, or what is damaged.
        worker: who works on it, or was the last to.
        held_out: the held-out scores before and after training, where it has both.
        started, updated: when its first and its last event came, in seconds since 1970, None before there is any.
        unreadable: damaged lines of its log: what they told is lost.
    """

    folder: Path
    state: str
    iteration: int = 0
    iterations: int = 0
    first: float | None = None
    latest: float | None = None
    message: str = ""
    worker: Worker | None = None
    held_out: Comparison | None = None
    started: float | None = None
    updated: float | None = None
    unreadable: int = 0


def look(directory: RunDirectory) -> RunState:
    """The run as it is now; "damaged" with the reason where its folder, its config or its log cannot be read."""
    try:
        return _look(directory)
    except (OSError, RLRError) as error:
        return damaged(directory.folder, error)


def damaged(folder: Path, error: Exception) -> RunState:
    """A run of which nothing can be told but why."""
    reason = f"it cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
    return RunState(folder, "damaged", message=reason or repr(error))


def _look(directory: RunDirectory) -> RunState:
    known = Overview.read(directory.overview_file)
    worker = directory.worker  # before the log: who has let go by now has written all that there is
    told = known.follow(directory.events_file).of_config(directory.config_file)
    word = word_for(directory, worker, told.last)
    if word not in AT_WORK:
        if told is not known:
            told.save(directory.overview_file)
        word = "damaged" if told.problem else word
    facts = told.facts
    return RunState(
        folder=directory.folder,
        state=word,
        iteration=facts.iteration,
        iterations=told.iterations,
        first=facts.first,
        latest=facts.latest,
        message=_message(directory, word, worker, told),
        worker=worker,
        held_out=facts.held_out,
        started=told.started,
        updated=told.updated,
        unreadable=facts.unreadable,
    )


def word_for(directory: RunDirectory, worker: Worker | None, last: str) -> str:
    """The state, by the note of a worker and the type of the last event, which was read after the note."""
    if worker and worker.works and _lives(directory, worker):
        return "running"
    if last in TOLD:
        return last
    if last == "launched" and worker and _lives(directory, worker):
        return "starting"
    now = directory.worker
    if now != worker:  # it was taken up in between, or let go
        return word_for(directory, now, log.ending(directory.events_file).type)
    return "interrupted"


def _lives(directory: RunDirectory, worker: Worker) -> bool:
    """Of a worker elsewhere, on a disk that computers share, its writing alone can be seen."""
    return worker.lives if worker.is_here else time.time() - _written(directory) < QUIET


def _written(directory: RunDirectory) -> float:
    times = [0.0]
    for file in (directory.events_file, directory.worker_file):
        with suppress(OSError):
            times.append(os.path.getmtime(file))
    return max(times)


def _message(directory: RunDirectory, word: str, worker: Worker | None, told: Overview) -> str:
    if word == "damaged":
        return told.problem
    if word == "failed":
        return told.failure
    return told.facts.alarm or ("" if word in TOLD else _doubt(directory, word, worker, told))


def _doubt(directory: RunDirectory, word: str, worker: Worker | None, told: Overview) -> str:
    """What can be told of a run that goes on elsewhere, or whose worker left without a word."""
    if worker and not worker.is_here:
        return f"process {worker.pid} of the computer {worker.host} took it up; only there can be told whether it lives"
    if word == "interrupted" and told.last == "launched":
        return f"the process that was started for it is gone; {directory.worker_log} has its output"
    return ""
