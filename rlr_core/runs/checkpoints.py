"""A run's checkpoints: files that are as they were written, or are not believed.

torch.load checks no sums: a flipped bit becomes another weight. A file is therefore one line,

    RLR checkpoint 3 <SHA-256 of all that follows, in hex>

and then what torch.save wrote. Whatever fails the check, or is of another run, is set aside under another name, so that it
never counts as one of those that are kept, and the next older one is taken.

torch is loaded where it is used: a list of runs has no need of it.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rlr_core.config import RunConfig, from_dict, to_dict
from rlr_core.errors import RLRError, RunError
from rlr_core.storage import storing, write_atomically

VERSION = 3
"""Of what a checkpoint holds: another number for every change of it, the trainer's state included."""
MAGIC = b"RLR checkpoint "
LINE = re.compile(rb"RLR checkpoint ([0-9]{1,9}) ([0-9a-f]{64})\n")
PICKLED = b"PK\x03\x04"
"""What a file of torch.save begins with."""


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from.

    Attributes:
        run: the run's identity, by which its own are told from those of others.
        config: with which it was trained until there.
        events: number of the last event that counts.
        trainer: the trainer's state.
    """

    run: str
    config: RunConfig
    events: int
    trainer: dict[str, Any]

    @property
    def iteration(self) -> int:
        """After which it was written."""
        return self.trainer["iteration"]


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that is whole; None where no file of one is there.

    Attributes:
        refused: newer files, the newest first, and what is wrong with each.
    """

    checkpoint: Checkpoint | None
    refused: dict[Path, str]


class _Refused(ValueError):
    """What is wrong with a file."""


class Checkpoints:
    """Those in one folder, of one run."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def exist(self) -> bool:
        """Whether there is a file of one, whatever it holds."""
        return bool(self._files())

    def save(self, checkpoint: Checkpoint, keep: int) -> None:
        """Write it, whole or not at all, then remove the oldest beyond `keep`. Raises `StorageError`."""
        line, data = sealed(checkpoint)

        def write(path: Path) -> None:
            with path.open("wb") as file:
                file.write(line)
                file.write(data)

        write_atomically(self.folder / f"{checkpoint.iteration:06d}.pt", write)
        for old in self._files()[:-keep]:
            with suppress(OSError):  # no file, or none that we may remove: it is not in our way
                old.unlink()

    def newest(self, run: str) -> Found:
        """The newest one that is whole and of `run` (of any run, for ""). Changes nothing.

        Raises `RunError` where there are files, and none that can be gone on from.
        """
        refused: dict[Path, str] = {}
        for path in reversed(self._files()):
            try:
                return Found(_read(path, run), refused)
            except _Refused as error:
                refused[path] = str(error)
        if refused:
            raise _none_is_left(self.folder, refused)
        return Found(None, refused)

    @property
    def iterations(self) -> list[int]:
        """Of those that are there, the oldest first, whatever they hold."""
        return [int(path.stem) for path in self._files()]

    def of_iteration(self, iteration: int, run: str) -> Checkpoint:
        """That of one iteration. Raises `RunError` where it is not there, damaged, or of another run than `run`."""
        path = next((path for path in self._files() if int(path.stem) == iteration), None)
        if path is None:
            raise RunError(
                f"no checkpoint of iteration {iteration} in {self.folder}",
                f"one of {', '.join(map(str, self.iterations)) or 'none yet'}",
                "choose one of these; output.keep_loras keeps the LoRAs of more iterations",
            )
        try:
            return _read(path, run)
        except _Refused as error:
            raise RunError(f"{path}: {error}", "a checkpoint that is whole", "choose another one") from None

    def set_aside(self, path: Path) -> Path:
        """Give a refused file another name, under which it is no checkpoint any more, and return that."""
        aside = next(name for name in _free_names(path) if not os.path.lexists(name))
        with storing(path):
            path.rename(aside)
        return aside

    def _files(self) -> list[Path]:
        """The oldest first. One that was set aside is not among them."""
        named = (path for path in self.folder.glob("*.pt") if re.fullmatch(r"[0-9]{1,18}", path.stem))
        return sorted(named, key=lambda path: int(path.stem))


def sealed(checkpoint: Checkpoint) -> tuple[bytes, memoryview]:
    """The first line of its file, and the rest."""
    import torch

    buffer = io.BytesIO()  # torch.save would tell a full disk by a RuntimeError
    torch.save({**vars(checkpoint), "config": to_dict(checkpoint.config)}, buffer)
    data = buffer.getbuffer()
    return b"%s%d %s\n" % (MAGIC, VERSION, hashlib.sha256(data).hexdigest().encode()), data


def _read(path: Path, run: str) -> Checkpoint:
    checkpoint = _unpacked(_checked(path))
    if run and checkpoint.run != run:
        raise _Refused("it is of another run: its identity is not that in run.id")
    if checkpoint.iteration != int(path.stem):
        raise _Refused(f"it is of iteration {checkpoint.iteration}, whatever its name says")
    return checkpoint


def _checked(path: Path) -> bytes:
    """What was sealed in the file, if that is what it still holds."""
    if not path.is_file():  # opening a FIFO would wait for ever
        raise _Refused("it is no file")
    try:
        with path.open("rb") as file:
            digest, data = _digest(file), file.read()
    except OSError as error:
        raise _Refused(f"it cannot be read: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest().encode() != digest:
        raise _Refused("it is damaged: its checksum does not match")
    return data


def _digest(file: BinaryIO) -> bytes:
    """That the first line promises."""
    line = file.readline(128)
    found = LINE.fullmatch(line)
    if line.startswith(PICKLED):
        raise _Refused("it has no checksum: an earlier version of RLR wrote it, or it is of something else")
    if not found:
        raise _Refused("it is damaged, or no checkpoint of a run")
    if int(found[1]) != VERSION:
        raise _Refused(f"its format is {int(found[1])}, that of this version of RLR is {VERSION}")
    return found[2]


def _unpacked(data: bytes) -> Checkpoint:
    """Of bytes that are as somebody wrote them: what is wrong now was so then."""
    import torch

    try:
        values = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return _checkpoint(values)
    except RLRError as error:
        raise _Refused(f"another version of RLR wrote it: {str(error).splitlines()[0]}") from None
    except Exception as error:  # unpickling raises of all kinds
        raise _Refused(f"it holds no checkpoint of a run ({type(error).__name__})") from None


def _checkpoint(values: dict[str, Any]) -> Checkpoint:
    made = Checkpoint(**{**values, "config": from_dict(values["config"])})
    kinds = {"run": str, "events": int, "trainer": dict}
    if (
        not all(type(getattr(made, name)) is kind for name, kind in kinds.items())
        or type(made.iteration) is not int
    ):
        raise TypeError
    return made


def _free_names(path: Path) -> Iterator[Path]:
    yield path.with_name(f"{path.name}.refused")
    number = 2
    while True:
        yield path.with_name(f"{path.name}.refused-{number}")
        number += 1


def _none_is_left(folder: Path, refused: dict[Path, str]) -> RunError:
    told = "; ".join(f"{path.name}: {reason}" for path, reason in refused.items())
    return RunError(
        f"no checkpoint in {folder} can be gone on from ({told})",
        "one that is as it was written, of this run",
        f"put one back from a copy, or begin anew: empty {folder}, or start another run",
    )
