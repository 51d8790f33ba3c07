"""End a run's worker at once, with all processes that it started, and read the last that it said."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlr_core.errors import RunError
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.worker import Worker

POSIX = os.name == "posix"
PATIENCE = 10.0
"""Seconds in which a process that was killed is gone; one that waits for a disk takes longer."""
TAIL = 2**16
"""Bytes of a log that are read from its end."""
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)")
"""What terminals take for colours, titles and movements."""


def kill(folder: Path) -> None:
    """End whoever works on a run, and all processes that he started: nothing is saved, and it can be resumed.

    The process ends that has the run in its hands, a host's own if the run is trained in it. Raises `RunError` where none of
    this computer does, or where it is this very process.
    """
    directory = RunDirectory.open(folder)
    worker = directory.worker
    if not worker or not directory.is_active:
        raise _nobody(folder)
    if not worker.is_here or worker.pid == os.getpid():
        who = "this very process" if worker.is_here else f"the computer {worker.host}"
        raise RunError(f"{who} works on the run {folder}", "another process of this computer", "stop the run")
    if not _ended(directory, worker):
        raise _nobody(folder)


def _nobody(folder: Path) -> RunError:
    return RunError(f"nobody works on the run {folder}", "a running run", "`rlr runs` lists them")


def _ended(directory: RunDirectory, worker: Worker) -> bool:
    """Whether the worker was still there, and at work; then it is not any more."""
    import psutil

    try:
        process = psutil.Process(worker.pid)
        process.suspend()  # so that it starts nothing more, neither a process nor the next run of a queue
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        raise _denied(worker) from None
    if not worker.lives or directory.worker != worker or not directory.is_active:
        with suppress(psutil.Error):
            process.resume()
        return False
    _end_all(process)
    return True


def _end_all(process: Any) -> None:
    """A suspended process with its descendants, its own group included."""
    import psutil

    ended: list[Any] = []
    while family := [each for each in _family(process) if each not in ended]:
        for each in family:
            with suppress(psutil.Error):
                each.kill()  # psutil makes sure that the number is not another process's by now
        ended += family
    with suppress(psutil.Error):
        process.kill()
    psutil.wait_procs([*ended, process], timeout=PATIENCE)


def _family(process: Any) -> list[Any]:
    """Descendants; and those whose parent has ended, by the group that a worker on POSIX has of its own."""
    import psutil

    with suppress(psutil.Error):
        return [*process.children(recursive=True), *_orphans(process)]
    return []


def _orphans(process: Any) -> list[Any]:
    import psutil

    if not POSIX:  # Windows knows a dead parent's number still
        return []
    found: list[Any] = []
    for each in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if each.pid != process.pid and os.getpgid(each.pid) == process.pid:
                found.append(each)
    return found


def _denied(worker: Worker) -> RunError:
    return RunError(
        f"process {worker.pid} may not be ended by this user", "one of your own", "ask who started it"
    )


def log_tail(folder: Path, lines: int = 20) -> list[str]:
    """The last lines that a run's worker printed, fit to be shown: without control characters; none where there are none.

    Of a line that was written over, as a progress bar is, how it looked last. No more than the last 64 KiB are read.
    """
    try:
        with RunDirectory(folder).worker_log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL, 0))
            told = file.read(TAIL).decode("utf-8", "replace")
    except OSError:
        return []
    whole = told.replace("\r\n", "\n").split("\n")[1 if size > TAIL else 0 :]
    shown = [_plain(line) for line in whole]
    while shown and not shown[-1]:
        shown.pop()
    return shown[-lines:] if lines > 0 else []


def _plain(line: str) -> str:
    last = line.rstrip("\r").rpartition("\r")[2]
    return "".join(c for c in ESCAPES.sub("", last.replace("\t", "    ")) if c.isprintable()).rstrip()
