"""Safetensors files, written tensor by tensor, and always the same bytes for the same content.

The safetensors library writes metadata in the random order of a hash map.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import BinaryIO

import torch
from torch import Tensor

from rlr_core.safetensors_header import TYPES, TensorInfo, file_order, header_bytes


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """The whole file, of tensors on the CPU."""
    infos = infos_of(tensors)
    write_stream(file, infos, metadata, (tensors[name] for name in file_order(infos)))


def write_stream(
    file: BinaryIO, infos: Mapping[str, TensorInfo], metadata: Mapping[str, str], values: Iterable[Tensor]
) -> None:
    """The same of tensors that come one by one, in the order of `file_order`."""
    file.write(header_bytes(infos, metadata))
    for value in values:
        file.write(_raw(value))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of what follows the header, in hexadecimal."""
    hasher = hashlib.sha256()
    for name in file_order(infos_of(tensors)):
        hasher.update(_raw(tensors[name]))
    return hasher.hexdigest()


def infos_of(tensors: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    """What the header says of each."""
    return {
        name: TensorInfo(TYPES[str(tensor.dtype).removeprefix("torch.")], tuple(tensor.shape))
        for name, tensor in tensors.items()
    }


def _raw(tensor: Tensor) -> memoryview:
    """The tensor's bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
