"""A file of tensors, safetensors or, if that is wanted, pickled."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rlr_core.errors import CheckpointError
from rlr_core.models.refusals import refuse
from rlr_core.safetensors_header import LONGEST, TYPES, UNQUANTISED, Header, TensorInfo, read_header, shown

PICKLED = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF")
"""First bytes of what `torch.save` writes, today and long ago; as lengths of a header they would be enormous."""

HARMLESS = [
    *(f"pathlib.{kind}" for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(
        "argparse.Namespace",
        "datetime.datetime",
        "datetime.timedelta",
        "copyreg._reconstructor",
        "builtins.object",
    ),
]
"""Of Python's own names, those that settings of a trainer may hold; nothing is made of them either."""
PRECISIONS = {
    "F64": "fp64",
    "F32": "fp32",
    "F16": "fp16",
    "BF16": "bf16",
    "F8_E4M3": "fp8 (e4m3)",
    "F8_E5M2": "fp8 (e5m2)",
}
"""Number types that weights may have → what people call them."""


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


class Inert:
    """Stands for an object of a library that is not asked: it takes what it is made with, and does nothing."""

    def __new__(cls, *_: Any, **__: Any):
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _unpickled(path: Path) -> Any:
    """Weights only: pickles that would run code are refused by torch.

    Trainers leave objects of their own beside the weights, such as Lightning's callbacks: nothing is made of them.
    """
    try:
        others = _foreign(path)
        with torch.serialization.safe_globals([(type("Inert", (Inert,), {}), name) for name in others]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        if others:
            warnings.warn(
                f"{path}: left out, and not run: {', '.join(map(shown, sorted(others)))}", stacklevel=4
            )
        return loaded
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is damaged, or holds more than weights ({reason})",
            "a pickled file of nothing but weights",
            "choose the safetensors version of it",
        ) from None


def _foreign(path: Path) -> list[str]:
    """The classes of other libraries that a pickled file names; torch refuses what Python's own could run."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # a file of before torch 1.6
        return []
    own = {*sys.stdlib_module_names, "torch"}
    return [name for name in names if name.split(".")[0] not in own or name in HARMLESS]


def incomplete(network: torch.nn.Module, header: Header, prefix: str, part: str) -> tuple[str, ...]:
    """What `Description.missing` says of a network whose tensors a file should have, their names behind `prefix`."""
    names = network.state_dict().keys()
    return lacking(part, sum(prefix + name in header.tensors for name in names), len(names))


def precision_of(path: Path, header: Header, names: Iterable[str]) -> str:
    """What people call the number type of most of those tensors; "" if there are none. Raises `CheckpointError` for another."""
    counts = Counter(header.tensors[name].dtype for name in names)
    if not counts:
        return ""
    dtype = counts.most_common(1)[0][0]
    if dtype not in PRECISIONS:
        refuse(path, f"quantised: its weights are {dtype}", UNQUANTISED)
    return PRECISIONS[dtype]


def lacking(part: str, found: int, of: int) -> tuple[str, ...]:
    """Nothing; or ("unet",) and ("unet (3 of 686 tensors)",) where all or some of a part's tensors are not there."""
    if found >= of:
        return ()
    return (f"{part} ({found} of {of} tensors)" if found else part,)


def load_strictly(network: torch.nn.Module, path: Path, file: TensorFile, prefix: str) -> None:
    """Give a network on "meta" its weights, every one of them, as they are in the file.

    Raises `CheckpointError`, naming the file, for one that is not there, has another shape or is quantised, before any is read.
    """
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    infos = file.header.tensors
    for name, shape in shapes.items():
        found = infos[prefix + name].shape if prefix + name in infos else None
        if found != shape:
            raise CheckpointError(
                f"{path} has no tensor {prefix}{name} of the shape {shape}"
                + (f", but one of the shape {found}" if found else ""),
                f"all {len(shapes)} tensors of the network",
                "download or copy the checkpoint again",
            )
    precision_of(path, file.header, (prefix + name for name in shapes))
    values = file.tensors([prefix + name for name in shapes])
    network.load_state_dict({name: values[prefix + name] for name in shapes}, assign=True)
