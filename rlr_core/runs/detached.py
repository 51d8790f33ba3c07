"""A process that outlives the one that started it: it has neither its terminal nor its input, and its output goes to a file."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WINDOWS = os.name == "nt"
NEW_PROCESS_GROUP, NO_WINDOW = 0x00000200, 0x08000000
"""Of Windows' CreateProcess: a Ctrl-C at the parent's console does not reach it; its own console is not shown.

DETACHED_PROCESS would leave it without one, and every program that it starts would then open a window.
"""


SHARING = {"GOMP_SPINCOUNT": "10000"}
"""For processes that compute: how long GNU OpenMP's threads hold a core while they wait for one another.

Its own 300,000 makes a network of convolutions on two cores, one of which another program keeps busy, take
15.7 s where 10,000 takes 4.4 s; on free cores they are alike (2.2 and 1.9 s).
"""


def spawn(arguments: Sequence[str], output: Path) -> int:
    """Start this Python with `arguments`, which finds the modules that we find; returns the process's number.

    What it prints is added to the file `output`, in UTF-8. Raises `OSError` where the system starts no process.
    """
    with output.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(),
            **options(windows=WINDOWS),
        )
    # whoever lives on beside it has to take notice of its end, or it would stay in the system's table
    threading.Thread(target=process.wait, name=f"waits for {process.pid}", daemon=True).start()
    return process.pid


def options(*, windows: bool) -> dict[str, Any]:
    """What makes a process its own master: it is not ended with its parent, with the terminal or by its Ctrl-C."""
    return {"creationflags": NEW_PROCESS_GROUP | NO_WINDOW} if windows else {"start_new_session": True}


def environment() -> dict[str, str]:
    """Ours, for UTF-8 without delay, with the path on which we find modules: a host may have changed it."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    own = {"PYTHONPATH": path, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
    return {**SHARING, **os.environ, **own}
