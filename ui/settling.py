"""The page Settings without its HTML: the folders and whether they are there, what is installed, and saving."""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlr_core import __version__
from rlr_core.config.paths import path_problem
from rlr_core.errors import ConfigError
from rlr_core.storage import user_path
from ui import hardware
from ui.finding import Installation
from ui.workspace import Folders, Look, Workspace

THEMES = ("system", "light", "dark")
PACKAGES = ("torch", "gradio", "diffusers", "transformers", "open-clip-torch", "peft")
SECONDS = 2.0
"""For which a folder's size is counted."""
MOST = 50
"""Folders of one kind."""


def view(workspace: Workspace) -> dict[str, Any]:
    """The settings as the page shows them."""
    folders = workspace.settings.folders
    return {
        "home": str(workspace.home),
        "theme": workspace.settings.look.theme,
        "folders": {
            "runs": [_line(workspace, folders.runs)],
            "checkpoints": [_line(workspace, each) for each in folders.checkpoints],
            "loras": [_line(workspace, each) for each in folders.loras],
            "rewards": [_line(workspace, folders.rewards)],
        },
        "checkpoints": bool(workspace.checkpoints),
    }


def _line(workspace: Workspace, folder: str) -> dict[str, Any]:
    """A folder as it was named, whether it is there, and where that is."""
    path = workspace.home / user_path(folder)
    return {"folder": folder, "there": os.path.isdir(path), "path": str(path)}


def save_folders(workspace: Workspace, values: dict[str, Any]) -> None:
    """Keep the folders. Raises `ConfigError` for what can be none, `StorageError`."""
    made = {}
    for name, default in vars(Folders()).items():
        given = values.get(name)
        if (
            not isinstance(given, list)
            or len(given) > MOST
            or not all(isinstance(each, str) for each in given)
        ):
            raise ConfigError(f"{name} = {str(given)[:80]!r}", f"up to {MOST} folders", "reload the page")
        named = list(dict.fromkeys(each.strip() for each in given if each.strip()))
        for each in named:
            _refuse_impossible(workspace, name, each)
        if isinstance(default, tuple):
            made[name] = tuple(named)
        elif len(named) == 1:
            made[name] = named[0]
        else:
            raise ConfigError(f"{len(named)} folders for {name}", "one", "name one folder")
    workspace.save(replace(workspace.settings, folders=Folders(**made)))


def _refuse_impossible(workspace: Workspace, name: str, folder: str) -> None:
    path = workspace.home / user_path(folder)
    if problem := path_problem(folder):
        raise ConfigError(f"the folder {folder[:200]!r}: {problem}", "the path of a folder", "correct it")
    if len(folder) > 1000 or path == Path(path.anchor):
        raise ConfigError(
            f"the folder {folder[:200]!r} for {name}", "a folder, not a whole disk", "name one below it"
        )
    if os.path.lexists(path) and not os.path.isdir(path):
        raise ConfigError(f"{path} is no folder", "the path of a folder", "correct it")


def save_theme(workspace: Workspace, theme: Any) -> None:
    """Keep the theme. Raises `ConfigError`."""
    if theme not in THEMES:
        raise ConfigError(f"the theme {str(theme)[:40]!r}", f"one of {', '.join(THEMES)}", "choose one")
    workspace.save(replace(workspace.settings, look=Look(theme)))


def proposals(workspace: Workspace, found: list[Installation]) -> list[dict[str, Any]]:
    """Installations whose folders are not all among the settings yet, as JSON."""
    folders = workspace.settings.folders
    known = {
        name: {_real(workspace, each) for each in getattr(folders, name)} for name in ("checkpoints", "loras")
    }
    lines = []
    for each in found:
        new = {
            name: [str(path) for path in getattr(each, name) if os.path.realpath(path) not in known[name]]
            for name in known
        }
        if any(new.values()):
            lines.append({"kind": each.kind, "root": str(each.root), **new})
    return lines


def _real(workspace: Workspace, folder: str) -> str:
    return os.path.realpath(workspace.home / user_path(folder))


def installed(workspace: Workspace) -> list[tuple[str, str]]:
    """What is installed and how much room it takes: names and values."""
    lines = [("RLR", __version__), ("Python", platform.python_version())]
    lines += [(name, _version(name)) for name in PACKAGES]
    size, whole = folder_size(workspace.runs)
    lines += [
        ("card", hardware.installed()),
        ("runs take", ("" if whole else "more than ") + gigabytes(size)),
    ]
    for there in (workspace.runs, *workspace.runs.parents):
        if there.is_dir():
            lines.append(("free on that disk", gigabytes(shutil.disk_usage(there).free)))
            break
    return lines


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def folder_size(folder: Path, seconds: float = SECONDS) -> tuple[int, bool]:
    """Bytes of its files, and whether all were counted in time; links are not followed."""
    end, total, waiting = time.monotonic() + seconds, 0, [folder]
    while waiting:
        if time.monotonic() > end:
            return total, False
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total, True


def gigabytes(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
