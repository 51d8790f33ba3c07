"""Runs on disk: the run folder is the truth. Any view can attach to it, leave and come back.

    folder = launch(config)             # trains in a process of its own
    follower = follow(folder)
    for event in follower.new():        # as often as the view is drawn: what has come since, read once
        ...                             # "evaluation", "iteration", … and in the end "finished", "stopped" or "failed"
    RunDirectory(folder).state()        # "starting", "running", …, and who works on it
    request(folder, "preview")          # or "save", or "stop"

    queue = Queue(Path("runs"))
    queue.add(config)                   # trains when those before it are over
    queue.advance()                     # as often as the view is drawn: starts the next one where nothing is at work

`start` and `resume` train in this process.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlr_core.runs.directory import RunDirectory
    from rlr_core.runs.killing import kill, log_tail
    from rlr_core.runs.launching import launch, launch_resume
    from rlr_core.runs.listing import list_runs
    from rlr_core.runs.log import Follower, counting
    from rlr_core.runs.queue import Queue
    from rlr_core.runs.requests import request, request_stop
    from rlr_core.runs.runner import resume, start
    from rlr_core.runs.state import RunState

_FILES = {
    "directory": ("RunDirectory",),
    "killing": ("kill", "log_tail"),
    "launching": ("launch", "launch_resume"),
    "listing": ("list_runs",),
    "log": ("Follower", "counting"),
    "queue": ("Queue",),
    "requests": ("request", "request_stop"),
    "runner": ("resume", "start"),
    "state": ("RunState",),
}
_HOME = {name: file for file, names in _FILES.items() for name in names}

__all__ = [
    "Follower",
    "Queue",
    "RunDirectory",
    "RunState",
    "counting",
    "follow",
    "kill",
    "launch",
    "launch_resume",
    "list_runs",
    "log_tail",
    "request",
    "request_stop",
    "resume",
    "start",
]


def follow(folder: Path, after: int = 0, offset: int = 0) -> Follower:
    """Whose `new()` gives, at each call, the events of a run that have come since; those numbered above `after` alone.

    `offset` is that of a follower that was kept: what it has read is not read again.
    """
    from rlr_core.runs.directory import RunDirectory
    from rlr_core.runs.log import Follower

    return Follower(RunDirectory(folder).events_file, offset, after)


def __getattr__(name: str) -> Any:
    """Load a name's file: whoever looks at runs does not wait for torch, which only those need that train."""
    if name in _HOME:
        return getattr(import_module(f"rlr_core.runs.{_HOME[name]}"), name)
    raise AttributeError(f"module 'rlr_core.runs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
