"""Runs on disk: the run folder is the truth. Any view can attach to it, leave and come back.

    folder = launch(config)             # trains in a process of its own
    follower = follow(folder)
    for event in follower.new():        # as often as the view is drawn: what has come since, read once
        ...                             # "evaluation", "iteration", … and in the end "finished", "stopped" or "failed"
    RunDirectory(folder).state()        # "starting", "running", …, and who works on it
    request_stop(folder)

`start` and `resume` train in this process.
"""

from pathlib import Path

from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.launching import launch, launch_resume
from rlr_core.runs.listing import list_runs
from rlr_core.runs.log import Follower, counting
from rlr_core.runs.runner import request_stop, resume, start
from rlr_core.runs.state import RunState


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
