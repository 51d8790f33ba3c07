"""Writing so that a file is either whole or not there, reading in bounded memory, and saying so where the disk refuses."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlr_core.errors import StorageError

WINDOWS = os.name == "nt"
PATIENCE = 2.0
"""Seconds for which Windows is asked again."""
PERMISSIONS = "check the folder's permissions, or choose another folder"
ADVICE = {
    errno.ENOSPC: "free some space; then `rlr resume` goes on from the last checkpoint",
    errno.EDQUOT: "raise the quota or free some space; then `rlr resume` goes on from the last checkpoint",
    errno.EACCES: PERMISSIONS,
    errno.EPERM: PERMISSIONS,
    errno.EROFS: "choose a folder that can be written",
    errno.ENOTDIR: "choose another folder: a file is in the way",
    errno.EEXIST: "choose another folder: a file is in the way",
    errno.EISDIR: "choose another name: a folder is in the way",
    errno.ENOTEMPTY: "choose another name: a folder is in the way",
    errno.ENOENT: "put the folder back, or choose another one",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "choose another folder: its links lead nowhere",
}
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
"""Name of a file, or of a folder, that is half written."""


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write `path` into a `StorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a library's, not the system's
            raise
        do = ADVICE.get(error.errno, "check the disk, or choose another folder")
        raise StorageError(f"{path} cannot be written: {error.strerror}", "room to write", do) from error


def write_atomically(path: Path, write: Callable[[Path], object], *, durable: bool = True) -> None:
    """Let `write` make a temporary file beside `path`, then put it in place: a reader sees the old file or the new one.

    What is not `durable` a power cut may take: it can be made again, and is not waited for.
    """
    temporary = temporary_beside(path)
    with storing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            if durable:
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            replace(temporary, path)
            if durable:
                _sync_folder(path.parent)
        finally:
            _remove(temporary)


def replace(temporary: Path, path: Path) -> None:
    """Put a file in the place of another one. Raises `OSError`.

    Windows refuses that while somebody has the other one open, as who looks at a run has for a moment: it is asked again.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return os.replace(temporary, path)
        except PermissionError:
            if not WINDOWS or time.monotonic() > until:
                raise
        time.sleep(0.01)


def temporary_beside(path: Path) -> Path:
    """Where this process makes what is then put in place at `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def leftovers(folder: Path) -> list[Path]:
    """What processes that were killed have left half written in `folder`."""
    return [path for path in folder.glob(".*.tmp") if TEMPORARY.fullmatch(path.name) and not path.is_dir()]


def _remove(temporary: Path) -> None:
    """Where even that fails, what was wrong at first is what counts."""
    with suppress(OSError):
        os.unlink(temporary)


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


def refuse_overwriting(paths: Iterable[Path], force: bool) -> None:
    """Raise `StorageError` if one of the files to be written is there already, or cannot be there.

    A folder is never replaced, even by `force`.
    """
    for path in paths:
        _refuse_impossible(path)
        if os.path.isdir(path):
            raise StorageError(f"{path} is a folder", "the name of a new file", "choose another name")
        if os.path.lexists(path) and not force:
            raise StorageError(f"{path} is there already", "a new name", "choose another, or add --force")


def _refuse_impossible(path: Path) -> None:
    """Raise `StorageError` for a name that no file can have: what is to be written there may take hours."""
    with storing(path), suppress(FileNotFoundError):
        try:
            os.lstat(path)
        except ValueError:  # a null byte
            raise OSError(errno.EINVAL, "no file can have that name") from None


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file, unless it has more than `most` bytes.

    Raises `OSError` that says why in its `strerror`, also for what is no file: a pipe could keep us waiting for ever.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except ValueError:
        raise OSError(errno.EINVAL, "no file can have that name") from None
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes")
    return data


def read_text(path: Path, most: int) -> str:
    """The same as text. Raises `OSError`, or `UnicodeDecodeError` where it is not UTF-8."""
    return read_bytes(path, most).decode("utf-8-sig")


def user_path(text: str | Path) -> Path:
    """The path that a user means, who may write ~ for the own folder; ~ and a name that nobody has is left as it is."""
    return Path(os.path.expanduser(text))


def cache_folder() -> Path:
    """Where what can be found out again is kept: in the user's cache folder, or in the one that RLR_CACHE names."""
    places = {"win32": ("LOCALAPPDATA", "~/AppData/Local"), "darwin": ("", "~/Library/Caches")}
    variable, default = places.get(sys.platform, ("XDG_CACHE_HOME", "~/.cache"))
    folder = os.environ.get("RLR_CACHE") or os.environ.get(variable) or default
    return user_path(folder) / "rlr"
