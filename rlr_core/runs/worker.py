"""Who works on a run: a note in its folder, by which a view tells a worker that lives from one that died.

Only who writes a run takes its lock. Were it taken to look, too, a run would be refused its own folder while somebody looks.
"""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlr_core.storage import read_bytes, write_text

LONGEST = 10_000
"""Bytes of a note."""
ABOUT = 1.0
"""Seconds by which a process's start may be told differently: systems count it in ticks."""
KINDS: dict[str, Any] = {
    "pid": int,
    "started": (int, float),
    "uptime": (int, float),
    "host": str,
    "works": bool,
}


@dataclass(frozen=True)
class Worker:
    """A process.

    Attributes:
        pid: its number.
        started: when it began, in seconds since 1970: numbers are used again.
        uptime: of the system when it began, in seconds: this stays where a clock is set, as after a laptop's sleep.
        host: name of the computer that it runs on.
        works: whether it has the run in its hands. One that was killed says so still; one that lives on has let go otherwise.
    """

    pid: int
    started: float
    uptime: float
    host: str
    works: bool

    @classmethod
    def of(cls, pid: int | None = None, *, works: bool = False) -> Worker:
        """A process of this computer; this one by default."""
        import psutil

        pid = os.getpid() if pid is None else pid
        with suppress(psutil.NoSuchProcess):
            return cls(pid, *_birth(psutil.Process(pid)), platform.node(), works)
        return cls(pid, time.time(), -1.0, platform.node(), works)  # it has ended already

    @classmethod
    def read(cls, file: Path) -> Worker | None:
        """From its note; None where there is none, or one that cannot be read."""
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            told = json.loads(read_bytes(file, LONGEST))
            if all(isinstance(told[name], kind) for name, kind in KINDS.items()):
                return cls(**told)
        return None

    def write(self, file: Path) -> None:
        """Leave the note."""
        write_text(file, json.dumps(asdict(self)) + "\n")

    @property
    def is_here(self) -> bool:
        """Whether it is on this computer: only there can be told whether it lives."""
        return self.host == platform.node()

    @property
    def lives(self) -> bool:
        """Whether it runs on this computer; one that has ended and waits for its parent to notice does not."""
        import psutil

        if not self.is_here:
            return False
        try:
            process = psutil.Process(self.pid)
            started, uptime = _birth(process)
            same = min(abs(started - self.started), abs(uptime - self.uptime)) < ABOUT
            return same and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, ValueError, OverflowError):  # numbers that no process can have
            return False


def _birth(process: Any) -> tuple[float, float]:
    """When a process began, in seconds since 1970 and since the system's start."""
    import psutil

    booted = psutil.boot_time()  # first: older versions of psutil count from where it was asked last
    return process.create_time(), process.create_time() - booted
