"""Files of published weights: where they may lie, whether they are the right ones, and reading them without running code."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlr_core.errors import RewardError
from rlr_core.storage import user_path

FOLDERS = "RLR_REWARDS"
"""Environment variable: more folders with weights, separated as in PATH."""
GENERIC = ("model.safetensors", "vocab.txt")
"""Names that say nothing: such files are looked for in their repository's folder only."""

NOWHERE = Path(os.devnull)
"""Stands for weights where only their shapes count; it holds no tensors."""
NO_WEIGHTS = 1_000_000
"""Bytes: smaller files are vocabularies."""


@dataclass(frozen=True)
class WeightsFile:
    """A file as its authors publish it.

    Attributes:
        repository: on the Hugging Face Hub, "owner/name".
        name: in the repository.
        size: about how many bytes.
        licence: that it comes under.
        digest: "md5:…" or "sha256:…"; "" where none is known.
        look_alikes: digest → what a file is that could be mistaken for it.
        page: where a person gets it, if not from the repository: then that is a copy of it.
    """

    repository: str
    name: str
    size: int
    licence: str
    digest: str = ""
    look_alikes: dict[str, str] = field(default_factory=dict)
    page: str = ""

    @property
    def place(self) -> Path:
        """Where it belongs, in a folder of weights."""
        return Path(self.repository.split("/")[1]) / self.name

    @property
    def address(self) -> str:
        """Where a person gets it."""
        return self.page or f"https://huggingface.co/{self.repository}/blob/main/{self.name}"

    @property
    def gigabytes(self) -> str:
        """Its size, for people."""
        return f"{self.size / 1e9:.2f} GB" if self.size > 1e8 else f"{self.size / 1e6:.1f} MB"


def find(file: WeightsFile, folder: Path) -> Path | None:
    """The file in `folder`, in a folder that the environment names, or in the Hugging Face cache."""
    more = [Path(name) for name in os.environ.get(FOLDERS, "").split(os.pathsep) if name]
    places = [user_path(each) / file.place for each in (folder, *more)]
    if file.name not in GENERIC:
        places += [user_path(each) / file.name for each in (folder, *more)]
    return next((path for path in places if os.path.isfile(path)), None) or _cached(file)


def _cached(file: WeightsFile) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    path = try_to_load_from_cache(file.repository, file.name)
    return Path(path) if isinstance(path, str) else None


def absent(file: WeightsFile, folder: Path, reward: str, why: Exception | None = None) -> RewardError:
    """What to say where a file is missing, and why it could not be downloaded, if that was tried."""
    tried = f"; downloading it failed: {str(why).strip().splitlines()[0]}" if why and str(why).strip() else ""
    return RewardError(
        f"the reward '{reward}' needs {file.name} ({file.gigabytes}), which is not on this machine{tried}",
        f"{folder / file.place}, or the Hugging Face cache",
        f"`rlr rewards download {reward}`, or get it from {file.address} and put it there",
    )


def verify(path: Path, file: WeightsFile) -> None:
    """Compare the file with its published digest. Raises `RewardError` that says what it is instead, if that is known."""
    if not file.digest:
        return
    kind, wanted = file.digest.split(":")
    found = digest(path, kind)
    if found != wanted:
        known = file.look_alikes.get(f"{kind}:{found}")
        what = f"is {known}" if known else f"is damaged or another file: its {kind} is {found}"
        raise RewardError(
            f"{path} {what}",
            f"{file.name} of {file.repository}, {kind} {wanted}",
            f"put the right file there: {file.address}",
        )


def digest(path: Path, kind: str) -> str:
    """The md5 or sha256 of a file, in hexadecimal."""
    hasher = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            hasher.update(block)
    return hasher.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Name → tensor from a .safetensors file or a torch checkpoint, with or without a `state_dict` around them.

    Memory is mapped to the file, so that what is not used is not read. No code in the file is run.

    Raises:
        RewardError: the file is damaged, holds no tensors, or wants to run code.
    """
    if path == NOWHERE:
        return {}
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    tensors = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise RewardError(f"{path} holds no table of tensors", "published weights", "get the file again")
    return tensors


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _read_checkpoint(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        wants = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        if not wants:
            raise _damaged(path, "it is no torch checkpoint") from None
        raise RewardError(
            f"{path} is refused: to be read, it wants to run {wants[1]}",
            "a file of weights and nothing else",
            "delete it: such a file can do anything to your machine. Get the weights from their authors",
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, why: object) -> RewardError:
    reason = str(why).strip().splitlines() or ["it ends too early"]
    return RewardError(
        f"{path} is damaged or incomplete ({reason[0]})",
        "a whole file of weights",
        "delete it and get it again: `rlr rewards` says where",
    )
