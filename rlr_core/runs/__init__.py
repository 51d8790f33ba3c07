"""Runs on disk: the run folder is the truth. Any view can attach to it, leave and come back."""

from pathlib import Path

from rlr_core.runs.directory import RunDirectory, RunState, list_runs
from rlr_core.runs.launching import launch, launch_resume
from rlr_core.runs.log import Follower, counting
from rlr_core.runs.runner import request_stop, resume, start


def follow(folder: Path, after: int = 0, offset: int = 0) -> Follower:
    """Whose `new()` gives, at each call, the events of a run that have come since; those numbered above `after` alone.

    `offset` is that of a follower that was kept: what it has read is not read again.
    """
    return Follower(RunDirectory(folder).events_file, offset, after)


__all__ = [
    "Follower",
    "RunDirectory",
    "RunState",
    "counting",
    "follow",
    "launch",
    "launch_resume",
    "list_runs",
    "request_stop",
    "resume",
    "start",
]
