"""A file of tensors, safetensors or, if that is wanted, pickled."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rlr_core.errors import CheckpointError
from rlr_core.safetensors_header import LONGEST, TYPES, Header, TensorInfo, read_header

PICKLED = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF")
"""First bytes of what `torch.save` writes, today and long ago; as lengths of a header they would be enormous."""


class TensorFile(Protocol):
    """A file's tensors, read one by one."""

    @property
    def header(self) -> Header:
        """What there is."""
        ...

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Those tensors, on the CPU."""
        ...


def open_tensors(path: Path, *, allow_pickle: bool) -> TensorFile:
    """Raises `CheckpointError` for what is damaged, and for pickled files unless they are allowed."""
    if not is_pickled(path):
        return _SafetensorsFile(path)
    if allow_pickle:
        return _PickledFile(path)
    raise CheckpointError(
        f"{path} is a pickled file, which is not read unless you ask for it",
        "a safetensors file",
        "choose the safetensors version of it; or set model.allow_pickle = true, to read nothing but weights from it",
    )


def is_pickled(path: Path) -> bool:
    """Whether a file begins like one of `torch.save`. Raises `CheckpointError` where there is none, or it cannot be read."""
    if not os.path.isfile(path):  # a pipe would be waited for
        raise CheckpointError(
            f"there is no file at {path}", "a checkpoint", "check the path for a typing error"
        )
    try:
        with path.open("rb") as file:
            start = file.read(8)
        return start.startswith(PICKLED) and int.from_bytes(start, "little") > LONGEST
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}", "a file that can be read", "check the path"
        ) from None


class _SafetensorsFile:
    def __init__(self, path: Path):
        self._path = path
        self.header = read_header(path)

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        from safetensors import safe_open

        with safe_open(self._path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names}


class _PickledFile:
    def __init__(self, path: Path):
        loaded = _unpickled(path)
        state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
        values = state.items() if isinstance(state, dict) else ()
        self._state = {str(name): value for name, value in values if isinstance(value, Tensor)}
        infos = {name: _info(value) for name, value in self._state.items()}
        self.header = Header(infos, {})

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        return {name: self._state[name] for name in names}


def _info(tensor: Tensor) -> TensorInfo:
    return TensorInfo(TYPES.get(str(tensor.dtype).removeprefix("torch."), "I64"), tuple(tensor.shape))


def _unpickled(path: Path) -> Any:
    """Weights only: pickles that would run code are refused by torch."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is damaged, or holds more than weights ({reason})",
            "a pickled file of nothing but weights",
            "choose the safetensors version of it",
        ) from None
