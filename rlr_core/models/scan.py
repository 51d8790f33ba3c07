"""The checkpoints in folders, with what they are; files that have not changed are not read again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlr_core.errors import CheckpointError, StorageError
from rlr_core.models.describing import describe_checkpoint
from rlr_core.models.description import Description
from rlr_core.storage import cache_folder, write_text

ENDINGS = {".safetensors", ".ckpt", ".gguf"}
VERSION = 1
"""Of the descriptions in the cache; whoever changes the detection raises it."""


@dataclass(frozen=True)
class Found:
    """A file or folder.

    Attributes:
        description: what it is; None if it cannot be trained on.
        problem: why not, as an error's message.
    """

    path: Path
    description: Description | None
    problem: str


def scan(folders: Iterable[Path]) -> list[Found]:
    """All checkpoints below `folders`, in the order of their paths; what is none of them comes with the problem.

    Symbolic links are followed, each file and folder is visited once. Raises `CheckpointError` for a folder that is not there.
    """
    cache = _Cache()
    found = [cache.found(path) for path in candidates(folders)]
    cache.save()
    return sorted(found, key=lambda each: str(each.path).casefold())


def candidates(folders: Iterable[Path]) -> Iterator[Path]:
    """Files that may be checkpoints, and folders in diffusers' layout, which are not looked into."""
    seen: set[str] = set()
    waiting = list(folders)
    for folder in waiting:
        if not os.path.isdir(folder):
            raise CheckpointError(f"there is no folder at {folder}", "a folder", "check the path")
    while waiting:
        path = waiting.pop()
        place = os.path.realpath(path)
        if place in seen:
            continue
        seen.add(place)
        if not os.path.isdir(path) or (path / "model_index.json").is_file():
            yield path
        else:
            waiting += _inside(path)


def _inside(folder: Path) -> list[Path]:
    """Subfolders, and files with a known ending; nothing of a folder that may not be read."""
    with suppress(PermissionError), os.scandir(folder) as entries:
        paths = [Path(entry.path) for entry in entries if not entry.name.startswith(".")]
        return [path for path in paths if path.suffix.lower() in ENDINGS or os.path.isdir(path)]
    return []


class _Cache:
    """Path → stamp and description of a file, kept in the user's cache folder."""

    def __init__(self):
        self._file = cache_folder() / "checkpoints.json"
        self._known = self._read()
        self._changed = False

    def _read(self) -> dict[str, Any]:
        """A file that cannot be read counts as none."""
        with suppress(OSError, ValueError):
            values = json.loads(self._file.read_text(encoding="utf-8"))
            files = (
                values.get("files") if isinstance(values, dict) and values.get("version") == VERSION else {}
            )
            return files if isinstance(files, dict) else {}
        return {}

    def found(self, path: Path) -> Found:
        """What is at `path`, remembered if it has not changed."""
        if os.path.isdir(path):
            return _look(path)
        key, stamp = os.path.abspath(path), _stamp(path)
        with suppress(KeyError, TypeError):
            if self._known[key]["stamp"] == stamp:
                return _from_entry(path, self._known[key])
        found = _look(path)
        description = asdict(found.description) if found.description else None
        self._known[key] = {"stamp": stamp, "description": description, "problem": found.problem}
        self._changed = True
        return found

    def save(self) -> None:
        """Without what is gone. A cache that cannot be written is not worth an error."""
        if self._changed:
            there = {key: entry for key, entry in self._known.items() if os.path.exists(key)}
            with suppress(StorageError, OSError):
                write_text(self._file, json.dumps({"version": VERSION, "files": there}))


def _look(path: Path) -> Found:
    try:
        return Found(path, describe_checkpoint(path), "")
    except CheckpointError as error:
        return Found(path, None, str(error))


def _stamp(path: Path) -> list[int]:
    """Changes whenever the file does, or the .yaml beside it."""
    stamp = []
    for file in (path, path.with_suffix(".yaml")):
        with suppress(OSError):
            facts = file.stat()
            stamp += [facts.st_size, facts.st_mtime_ns]
    return stamp


def _from_entry(path: Path, entry: dict[str, Any]) -> Found:
    """Raises `KeyError` or `TypeError` for an entry of another kind."""
    values = entry["description"]
    description = Description(**{**values, "missing": tuple(values["missing"])}) if values else None
    return Found(path, description, str(entry["problem"]))
