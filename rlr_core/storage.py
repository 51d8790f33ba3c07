"""Writing so that a file is either whole or not there, and saying so when the disk does not let us."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlr_core.errors import StorageError

ADVICE = {
    errno.ENOSPC: "free some space; then `rlr resume` goes on from the last checkpoint",
    errno.EDQUOT: "raise the quota or free some space; then `rlr resume` goes on from the last checkpoint",
    errno.EACCES: "check the folder's permissions, or choose another folder",
    errno.EPERM: "check the folder's permissions, or choose another folder",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOTDIR: "choose another folder: a file is in the way",
}


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write `path` into a `StorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        raise StorageError(
            f"{path} cannot be written: {error.strerror}", "room to write", ADVICE[error.errno]
        ) from error


def write_atomically(path: Path, write: Callable[[Path], object], *, durable: bool = True) -> None:
    """Let `write` make a temporary file beside `path`, then put it in place: a reader sees the old file or the new one.

    What is not `durable` a power cut may take: it can be made again, and is not waited for.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            if durable:
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
            if durable:
                _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Let the new name survive a power cut, where a folder can be synced."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """UTF-8 text, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), durable=durable)


def read_small(path: Path) -> bytes:
    """A small file at once; of a pipe, for which one would wait, nothing."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        return file.read() or b""


def cache_folder() -> Path:
    """Where what can be found out again is kept: in the user's cache folder, or in the one that RLR_CACHE names."""
    places = {"win32": ("LOCALAPPDATA", "~/AppData/Local"), "darwin": ("", "~/Library/Caches")}
    variable, default = places.get(sys.platform, ("XDG_CACHE_HOME", "~/.cache"))
    folder = os.environ.get("RLR_CACHE") or os.environ.get(variable) or default
    return Path(folder).expanduser() / "rlr"
