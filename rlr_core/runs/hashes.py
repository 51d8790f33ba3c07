"""The short hashes by which A1111 and Civitai know files. Those of checkpoints are remembered: they take seconds."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from rlr_core.errors import StorageError
from rlr_core.storage import cache_folder, read_text, write_text

LONGEST = 2**20
"""Bytes of what is remembered."""
BLOCK = 2**22
"""Bytes that are read at once."""


def checkpoint_hash(path: Path) -> str:
    """Ten digits of the SHA-256 of a file; of a folder in diffusers' layout, of its UNet's. "" where there is none to read."""
    if os.path.isdir(path):
        weights = sorted((path / "unet").glob("*.safetensors"))
        return checkpoint_hash(weights[0]) if weights else ""
    try:
        return _remembered(path)[:10]
    except OSError:
        return ""


def lora_hash(path: Path) -> str:
    """Twelve digits of the SHA-256 of what follows the header of a safetensors file (sd-scripts), as A1111 has it."""
    with path.open("rb") as file:
        file.seek(int.from_bytes(file.read(8), "little"), os.SEEK_CUR)
        return _digest(file)[:12]


def _remembered(path: Path) -> str:
    """A file's SHA-256, read once as long as its size and its time stay."""
    kept, found = cache_folder() / "hashes.json", os.stat(path)
    name, stamp = str(path.resolve()), [found.st_size, found.st_mtime_ns]
    known = _known(kept)
    if name in known and known[name][:2] == stamp:
        return known[name][2]
    with path.open("rb") as file:
        digest = _digest(file)
    with suppress(StorageError):
        write_text(kept, json.dumps({**known, name: [*stamp, digest]}), durable=False)
    return digest


def _digest(file: BinaryIO) -> str:
    """SHA-256 of what follows, in hex."""
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _known(kept: Path) -> dict[str, list[Any]]:
    """Path → size, time and SHA-256; none where that cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        known = json.loads(read_text(kept, LONGEST))
        if isinstance(known, dict) and all(
            isinstance(each, list) and len(each) == 3 and isinstance(each[2], str) for each in known.values()
        ):
            return known
    return {}
