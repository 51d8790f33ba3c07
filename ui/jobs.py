"""Work that loads networks: a folder with what was asked, a process of its own that does it, and what it has told so far.

asked.json    what is to be done
worker.json   who does it
told.json     how far it is, what it found, why it failed
log           what libraries print

Closing the browser or the GUI changes nothing for it. Only the newest folders are kept.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlr_core.errors import RLRError, RunError
from rlr_core.runs.detached import spawn
from rlr_core.runs.listing import list_runs
from rlr_core.runs.state import AT_WORK
from rlr_core.runs.worker import Worker
from rlr_core.storage import read_bytes, read_text, storing, write_text

NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
LONGEST = 2**23
"""Bytes of what is asked or told."""
TAIL = 4000
"""Letters of the log that are told of a process that died."""


@dataclass(frozen=True)
class Jobs:
    """The jobs of one kind.

    Attributes:
        root: folder of their folders.
        module: that does them, as `python -m MODULE FOLDER`.
        kept: so many folders at most.
    """

    root: Path
    module: str
    kept: int

    def new(self) -> Path:
        """A new folder; the oldest ones go, but for one that is being worked on. Raises `StorageError`."""
        names = self.names()
        for name in names[self.kept - 1 :]:
            if not is_at_work(self.root / name):
                shutil.rmtree(self.root / name, ignore_errors=True)
        folder = self.root / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        with storing(folder):
            folder.mkdir(parents=True)
        return folder

    def names(self) -> list[str]:
        """Of the folders, the newest first."""
        try:
            return sorted((name for name in os.listdir(self.root) if NAME.fullmatch(name)), reverse=True)
        except OSError:
            return []

    def folder(self, name: str) -> Path:
        """Of the job called `name`. Raises `RunError` where there is none."""
        if not NAME.fullmatch(name) or not (self.root / name).is_dir():
            raise RunError(f"no job {name[:40]!r}", "one of the newest", "begin anew: old ones are deleted")
        return self.root / name

    def start(self, folder: Path, asked: dict[str, Any]) -> None:
        """Begin with it. Raises `RunError` where another one is at work, or no process can be started."""
        if any(told(self.root / name)["state"] == "working" for name in self.names()):
            raise RunError("another one is being worked on", "one at a time", "wait for it, or cancel it")
        write_text(folder / "asked.json", json.dumps(asked, ensure_ascii=False))
        (folder / "told.json").unlink(missing_ok=True)
        try:
            pid = spawn(["-m", self.module, str(folder.absolute())], folder / "log")
        except OSError as error:
            raise RunError(
                f"no process could be started: {error}", "a system that starts one", "try again"
            ) from error
        Worker.of(pid, works=True).write(folder / "worker.json")


def asked(folder: Path) -> dict[str, Any]:
    """What is to be done; {} where nothing was asked yet."""
    return _read(folder / "asked.json")


def told(folder: Path) -> dict[str, Any]:
    """What the process has told: `state` is "waiting", "working", "finished", "failed", "cancelled" or "died"."""
    alive = is_at_work(folder)  # before the note: who has ended by now has told all
    found = _read(folder / "told.json")
    if not (folder / "worker.json").exists():
        return {"state": "waiting", **found}
    if "state" not in found:
        found["state"] = "working" if alive else "died"
    if found["state"] == "working" and not alive:
        found["state"] = "died"
    if found["state"] == "died":
        found["error"] = f"The process ended without a word.\n{_tail(folder / 'log')}".strip()
    return found


def is_at_work(folder: Path) -> bool:
    """Whether its process lives."""
    worker = Worker.read(folder / "worker.json")
    return worker is not None and worker.lives


def cancel(folder: Path) -> None:
    """End its process with all that this one has started; what was made stays."""
    import psutil

    worker = Worker.read(folder / "worker.json")
    if worker is None or not worker.lives:
        return
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(worker.pid)
        family = [*process.children(recursive=True), process]
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(family, timeout=5)
    tell(folder, {**_read(folder / "told.json"), "state": "cancelled"})


def tell(folder: Path, what: dict[str, Any]) -> None:
    """Leave word of how far the work is."""
    write_text(folder / "told.json", json.dumps(what, ensure_ascii=False), durable=False)


def at_work(runs: Path) -> list[str]:
    """Names of the runs that are training now."""
    with suppress(RLRError):
        return [state.folder.name for state in list_runs(runs) if state.state in AT_WORK]
    return []


def doubt(names: Iterable[str], doing: str) -> str:
    """What to say before something else is done on the card; "" where nothing trains."""
    training = list(names)
    if not training:
        return ""
    who = f"{training[0]} is" if len(training) == 1 else f"{len(training)} runs are"
    return f"{who} training. {doing} now slows that down, and may take memory that it needs."


def _read(file: Path) -> dict[str, Any]:
    """{} for what is not there or cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(read_bytes(file, LONGEST))
        if isinstance(found, dict):
            return found
    return {}


def _tail(file: Path) -> str:
    with suppress(OSError, ValueError):
        return read_text(file, LONGEST)[-TAIL:]
    return ""
