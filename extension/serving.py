"""`python -m extension.serving HOME PORT PREFIX`, in RLR's environment: the GUI, until its host is gone and no run is live."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import psutil

from rlr_core.errors import RLRError
from rlr_core.runs.listing import list_runs
from ui.__main__ import main
from ui.words import LIVE
from ui.workspace import Workspace

PERIOD = 2.0
GRACE = 30.0
"""Seconds that a webui which restarts may take until it says that it is here."""


def host_lives(home: Path) -> bool:
    """Whether the webui that last asked for the GUI is there."""
    try:
        return psutil.pid_exists(int((home / "host.pid").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def run_lives(home: Path) -> bool:
    """Whether a run is at work; one that cannot be told counts."""
    try:
        return any(state.state in LIVE for state in list_runs(Workspace.open(home).runs))
    except RLRError:
        return True


def watch(home: Path) -> None:
    """End this process once nobody needs it."""
    needed = time.monotonic()
    while time.monotonic() - needed < GRACE:
        time.sleep(PERIOD)
        if host_lives(home) or run_lives(home):
            needed = time.monotonic()
    os._exit(0)


if __name__ == "__main__":
    home, port, prefix = sys.argv[1:]
    threading.Thread(target=watch, args=[Path(home)], daemon=True).start()
    sys.exit(main(["--home", home, "--port", port, "--root-path", prefix, "--no-browser"]))
