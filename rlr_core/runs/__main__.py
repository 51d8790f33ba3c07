"""`python -m rlr_core.runs RUN`: the process that `launch` starts. It takes the run up, and leaves why it failed in its log."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from rlr_core.errors import RLRError
from rlr_core.runs import log
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.queue import Queue
from rlr_core.runs.runner import go_on

PATIENCE = 60.0
"""Seconds for which the folder is waited for: whoever started this process still holds it."""


def main(folder: Path) -> int:
    """Carry the run out, unless somebody else has; returns the exit code, 2 for a problem that the user can put right.

    However it ends, the next run that waits for its turn is started then.
    """
    directory, told_to_stop = RunDirectory.open(folder), threading.Event()
    _stop_when_told(told_to_stop)
    try:
        return _work(directory, told_to_stop)
    finally:
        if not told_to_stop.is_set():  # a system that shuts down is to begin with nothing more
            with suppress(OSError, RLRError):
                Queue(directory.folder.parent).advance()


def _work(directory: RunDirectory, told_to_stop: threading.Event) -> int:
    with directory.held(PATIENCE):
        if not directory.is_launched:
            print(f"{directory.folder} is in other hands", file=sys.stderr)
            return 0
        end = log.ending(directory.events_file)
        follower = log.Follower(directory.events_file, end.offset, end.sequence)
        try:
            go_on(directory, lambda event: None, should_stop=told_to_stop.is_set)
        except Exception as error:
            if all(event["type"] != "failed" for event in follower.new()):
                with suppress(RLRError):  # a disk that is full
                    log.EventLog(directory.events_file).failed(error)
            if not isinstance(error, RLRError):
                raise
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0


def _stop_when_told(told: threading.Event) -> None:
    """SIGTERM (a system that shuts down) asks for a checkpoint; a second one ends the process at once."""

    def tell(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        told.set()

    signal.signal(signal.SIGTERM, tell)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
