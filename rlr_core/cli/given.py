"""Names of files as users give them: with ~ or without their ending, and "embedded" for the checkpoint that is shipped."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rlr_core.embedded import CHECKPOINT
from rlr_core.errors import CheckpointError
from rlr_core.storage import user_path

ENDING = ".safetensors"
OTHER_ENDING = re.compile(r"\.[A-Za-z]{2,5}")
"""As .ckpt or .txt: of files that are not what we write. "v1.5" has none."""


def existing(path: str | Path) -> Path:
    """The path of a file or folder; with its ending where only that is missing."""
    path = user_path(path)
    ended = path.with_name(path.name + ENDING) if path.name else path
    return ended if not os.path.lexists(path) and os.path.lexists(ended) else path


def checkpoint(path: str | Path) -> Path:
    """The path of a checkpoint, which may be "embedded"."""
    return CHECKPOINT if str(path) == "embedded" else existing(path)


def new_file(path: str | Path) -> Path:
    """The path of a safetensors file that is to be written; it gets its ending. Raises `CheckpointError` for another one."""
    path = user_path(path)
    if not path.name or (path.suffix != ENDING and OTHER_ENDING.fullmatch(path.suffix)):
        raise CheckpointError(f"the file name {path}", f"a name that ends in {ENDING}", "change it")
    return path if path.suffix == ENDING else path.with_name(path.name + ENDING)
