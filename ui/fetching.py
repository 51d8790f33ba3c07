"""A published reward's weights, fetched by a process of its own: closing the browser or the GUI does not end it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlr_core.errors import ConfigError
from rlr_core.runs.detached import spawn
from rlr_core.runs.worker import Worker
from rlr_core.storage import read_text
from ui.workspace import Workspace

LONGEST = 10**7


@dataclass(frozen=True)
class Fetched:
    """How far a download is.

    Attributes:
        state: "missing", "fetching", "installed" or "failed".
        done: bytes, of `total`.
        message: why it failed.
    """

    state: str
    done: int
    total: int
    message: str = ""


def fetch(workspace: Workspace, name: str) -> dict[str, Any]:
    """Begin, or go on, unless it is under way."""
    _published(name)
    log, note = _files(workspace, name)
    worker = Worker.read(note)
    if not (worker and worker.lives):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        arguments = ["-m", "rlr_core", "rewards", "download", name, "--folder", str(workspace.rewards)]
        Worker.of(spawn(arguments, log)).write(note)
    return fetched(workspace, name)


def fetched(workspace: Workspace, name: str) -> dict[str, Any]:
    """How far it is, from what is on the disk."""
    from rlr_core.rewards.published_files import find

    published = _published(name)
    log, note = _files(workspace, name)
    total = sum(file.size for file in published.files)
    lacking = [file for file in published.files if not find(file, workspace.rewards)]
    there = total - sum(file.size for file in lacking)
    if not lacking:
        return asdict(Fetched("installed", total, total))
    done = there + sum(_part(workspace.rewards / file.place) for file in lacking)
    worker = Worker.read(note)
    if worker and worker.lives:
        return asdict(Fetched("fetching", done, total))
    told = _said(log)
    return asdict(Fetched("failed" if told else "missing", done, total, told))


def _published(name: str) -> Any:
    from rlr_core.rewards import PUBLISHED

    if name not in PUBLISHED:
        raise ConfigError(f"reward {name[:60]!r}", f"one of {', '.join(PUBLISHED)}", "reload the page")
    return PUBLISHED[name]


def _files(workspace: Workspace, name: str) -> tuple[Path, Path]:
    folder = workspace.home / "ui" / "downloads"
    return folder / f"{name}.log", folder / f"{name}.json"


def _part(target: Path) -> int:
    return sum(path.stat().st_size for path in target.parent.glob(f"{target.name}.*.part"))


def _said(log: Path) -> str:
    """The error that the download ended with; "" where none is told."""
    try:
        told = read_text(log, LONGEST)
    except (OSError, UnicodeDecodeError):
        return ""
    return told[told.rindex("error:") :].strip() if "error:" in told else ""
