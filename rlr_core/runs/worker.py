"""Who works on a run: a note in its folder, by which a view tells a worker that lives from one that died."""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rlr_core.storage import write_text

ABOUT = 1.0
"""Seconds by which a process's start may be told differently: systems count it from their own start, and clocks are set."""


@dataclass(frozen=True)
class Worker:
    """A process.

    Attributes:
        pid: its number.
        started: when it began, in seconds since 1970: numbers are used again.
        host: name of the computer that it runs on.
    """

    pid: int
    started: float
    host: str

    @classmethod
    def of(cls, pid: int | None = None) -> Worker:
        """A process of this computer; this one by default."""
        import psutil

        pid = os.getpid() if pid is None else pid
        with suppress(psutil.NoSuchProcess):
            return cls(pid, psutil.Process(pid).create_time(), platform.node())
        return cls(pid, time.time(), platform.node())  # it has ended already

    @classmethod
    def read(cls, file: Path) -> Worker | None:
        """From its note; None where there is none, or one that cannot be read."""
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
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
            same = abs(process.create_time() - self.started) < ABOUT
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
