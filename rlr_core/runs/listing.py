"""All runs of a folder, for lists that are drawn again and again: no run, however broken, hides the others."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from rlr_core.errors import RunError
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.state import RunState, damaged


def list_runs(root: Path) -> list[RunState]:
    """The runs in the folder `root`, the oldest first. Raises `RunError` where it cannot be read."""
    try:
        with os.scandir(root) as entries:
            states = [state for entry in entries if (state := _state_of(entry))]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(
            f"{root} cannot be read: {error.strerror}", "a folder of runs", "check its path and permissions"
        ) from error
    return sorted(states, key=lambda state: (state.started or _made(state.folder), state.folder.name))


def _state_of(entry: os.DirEntry[str]) -> RunState | None:
    """None of what is no run."""
    folder = Path(entry.path)
    try:
        directory = RunDirectory(folder)
        if entry.is_dir() and (_is_there(directory.config_file) or _is_there(directory.events_file)):
            return directory.state()
    except Exception as error:  # whatever is wrong with it, its line says so and the other lines are there
        return damaged(folder, error)
    return None


def _is_there(file: Path) -> bool:
    """Unlike `Path.exists`, raises `OSError` where that cannot be seen."""
    try:
        os.stat(file)
    except FileNotFoundError:
        return False
    return True


def _made(folder: Path) -> float:
    with suppress(OSError):
        return os.path.getmtime(folder / "config.toml")
    return 0.0
