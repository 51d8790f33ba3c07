"""What a safetensors file says that it holds, read from its header alone: no tensor is touched.

The format (huggingface/safetensors, "Format"): 8 bytes, the header's length N, little-endian; N bytes of JSON, tensor name →
`dtype`, `shape` and `data_offsets`, with `__metadata__` for texts; then the tensors, without holes. The file may come from
anywhere, so that nothing in it is believed before it is checked, and what is read is bounded.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlr_core.errors import CheckpointError, visible

LONGEST = 100_000_000
"""Bytes of the longest header that is read: safetensors' own limit. The tags of a large data set alone may be some millions."""
LONGEST_FRAME = 4 * 2**20
"""Bytes of what is outside of texts; 20,000 tensors take two millions."""
MOST = 20_000
"""Tensors that a file may have; the largest checkpoints that are supported have 4,000."""
TOO_LARGE = re.compile(rb"[\[,:\s-][0-9]{21}")
"""A whole number of more than 64 bits, as JSON has it."""
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""The format's number types → bits of one number."""
TYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
"""Types that weights may have: torch's name → the format's."""
ENTRY = {"dtype", "shape", "data_offsets"}
EXPECTED = "a whole safetensors file"
COPY_AGAIN = "download or copy the file again"
UNQUANTISED = "choose the safetensors version of it in fp16, bf16 or fp32"
IMPOSTORS = {
    b"GGUF": ("is a GGUF file (quantised weights)", UNQUANTISED),
    b"PK\x03\x04": ("is a pickled file (.ckpt, .pt) or an archive", "choose the safetensors version of it"),
    b"\x80": ("is a pickled file (.ckpt, .pt)", "choose the safetensors version of it"),
    b"version ": (
        "is a Git LFS pointer: a note of where the file lies, not the file",
        "`git lfs pull` gets the file",
    ),
    b"<": ("is a web page, not a file of weights", "download the file itself; its site may ask for a login"),
}
"""First bytes → what a file that is not safetensors is instead, and what to do."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the file.

    Attributes:
        dtype: one of `BITS`, as "F16".
        shape: () for a single number.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """A checked header.

    Attributes:
        tensors: name → what it is.
        metadata: texts.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


class _Damaged(ValueError):
    """What is wrong with a header, and what to do."""

    def __init__(self, what: str, do: str = COPY_AGAIN):
        super().__init__(what)
        self.do = do


def read_header(path: Path) -> Header:
    """Read and check the header of the file at `path`, in bounded memory; a header of some MB in well under a second.

    Raises `CheckpointError`, naming the file, where it is missing, not safetensors, damaged, cut off or too long.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"there is no file at {path}", EXPECTED, "check the path for a typing error")
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}", EXPECTED, COPY_AGAIN) from None
    except _Damaged as error:
        raise CheckpointError(f"{path} {error}", EXPECTED, error.do) from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is damaged: its header is no JSON", EXPECTED, COPY_AGAIN) from None


def file_order(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """The names as the tensors lie in a file: the widest type first, as the format advises for their alignment."""
    return sorted(tensors, key=lambda name: (-BITS[tensors[name].dtype], name))


def header_bytes(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON of a file with these tensors, in the order of `file_order`; metadata are sorted."""
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in file_order(tensors):
        tensor = tensors[name]
        start, end = end, end + math.prod(tensor.shape) * BITS[tensor.dtype] // 8
        entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def shown(text: object, length: int = 80) -> str:
    """Text out of a file, fit for a message: on one line, `visible`, and short."""
    plain = visible(str(text)[: length + 1]).replace("\n", "\\n")
    return plain if len(plain) <= length else plain[: length - 1] + "…"


def _read(file: Any, size: int) -> Header:
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        for first, (what, do) in IMPOSTORS.items():
            if start.startswith(first):
                raise _Damaged(what, do)
        raise _Damaged(f"is damaged or incomplete: it has {size} bytes, and its header should have {length}")
    if length > LONGEST:
        raise _Damaged(f"has a header of {length} bytes; more than {LONGEST} are not read")
    return _parse(file.read(length), size - 8 - length)


def _parse(text: bytes, size: int) -> Header:
    """The header in `text`; `size` bytes of tensors follow it."""
    if not text.startswith(b"{"):
        raise _Damaged("is damaged: its header is no JSON object")
    _check_frame(text)
    entries = json.loads(text.decode("utf-8"), object_pairs_hook=_object)
    metadata = entries.pop("__metadata__", {})
    if not _is_texts(metadata):
        raise _Damaged("is damaged: its metadata are no texts")
    tensors = {name: _tensor(name, entry) for name, entry in entries.items()}
    _check_extents(entries, size)
    "".join(entries).encode("utf-8")  # refuses halves of surrogate pairs
    "".join((*metadata, *metadata.values())).encode("utf-8")
    return Header(tensors, metadata)


def _check_frame(text: bytes) -> None:
    """Refuse what would cost Python much time or memory: many texts, much outside of them, or very large numbers."""
    bare = text.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in text else text
    if bare.count(b'"') > 40 * MOST:  # a tensor has ten
        raise _Damaged(f"has a header of too many parts; files of more than {MOST} tensors are not read")
    frame = b'""'.join(bare.split(b'"')[::2])
    if len(frame) > LONGEST_FRAME or frame.count(b"[") + frame.count(b"{") > 4 * MOST:  # a tensor has three
        raise _Damaged(f"has a header of too many parts; files of more than {MOST} tensors are not read")
    if TOO_LARGE.search(frame):  # Python's int() would take quadratic time
        raise _Damaged("is damaged: a number in its header is beyond 64 bits")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, which must not name anything twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _Damaged(f"is damaged: its header names '{shown(twice)}' twice")
    return values


def _is_texts(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(value, str) for value in values.values())


def _tensor(name: str, entry: Any) -> TensorInfo:
    """One entry, checked by itself."""
    if not isinstance(entry, dict) or entry.keys() != ENTRY:
        raise _Damaged(f"is damaged: '{shown(name)}' is no tensor")
    dtype, shape, extent = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _Damaged(f"has a tensor '{shown(name)}' of the unknown type '{shown(dtype)}'")
    if not _is_naturals(shape, 16) or not _is_naturals(extent, 2) or len(extent) != 2:
        raise _Damaged(f"is damaged: '{shown(name)}' has an impossible shape or place")
    if math.prod(shape) * BITS[dtype] != (extent[1] - extent[0]) * 8:
        raise _Damaged(f"is damaged: '{shown(name)}' has not the size of its shape")
    return TensorInfo(dtype, tuple(shape))


def _is_naturals(values: Any, most: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= most
        and all(type(value) is int and value >= 0 for value in values)
    )


def _check_extents(entries: dict[str, Any], size: int) -> None:
    """The tensors must fill the rest of the file, one after the other."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        if start != end:
            raise _Damaged(f"is damaged: '{shown(name)}' does not begin where the tensor before it ends")
        end = stop
    if end != size:
        raise _Damaged(f"is damaged or incomplete: its tensors should have {end} bytes, and {size} are there")
