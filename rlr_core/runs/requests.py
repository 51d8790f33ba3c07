"""What may be asked of a run at work: files in its folder, of which it takes notice by itself.

"stop" is seen between two denoising steps; "preview" and "save" between two iterations, which then go on as if nothing had been
asked: the numbers of the training, and when it checks, are the same.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

from rlr_core.runs.directory import RunDirectory
from rlr_core.storage import write_text

Request = Literal["stop", "preview", "save"]


def request(folder: Path, what: Request) -> bool:
    """Ask a run to save a checkpoint and stop, to paint a preview now, or to save a checkpoint and its LoRA now.

    False if it neither runs nor starts.
    """
    directory = RunDirectory.open(folder)
    if not directory.is_active:
        return False
    write_text(_file(directory, what), "")
    return True


def request_stop(folder: Path) -> bool:
    """Ask a run to stop between two denoising steps; it saves a checkpoint first. False if it neither runs nor starts."""
    return request(folder, "stop")


def taken_up(directory: RunDirectory, what: Request) -> bool:
    """Whether that was asked; from now on it may be asked again."""
    with suppress(
        OSError
    ):  # it is not there; or, on Windows, not yet let go of by who wrote it: the next time, then
        _file(directory, what).unlink()
        return True
    return False


def _file(directory: RunDirectory, what: Request) -> Path:
    return {
        "stop": directory.stop_file,
        "preview": directory.preview_file,
        "save": directory.save_file,
    }[what]
