"""LoRA files: read whatever trainers write, write what hosts read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from rlr_core.errors import CheckpointError
from rlr_core.families import LoraFamily, lora_families
from rlr_core.lora.encoding import encode
from rlr_core.lora.formats import ALPHA, DOWN, decode, role_of
from rlr_core.lora.metadata import about_training, hashes, standard_metadata
from rlr_core.lora.peft_config import beside, refuse_other_types
from rlr_core.lora.readers import of_the_lora, readers, same_words
from rlr_core.lora.recognition import family_of, told_by
from rlr_core.lora.tensor_file import digest, write_tensors
from rlr_core.lora.weights import LayerChanges, finite, useless
from rlr_core.safetensors_header import TYPES, Header, read_header, shown
from rlr_core.storage import write_atomically

LARGEST_RANK = 4096


@dataclass(frozen=True)
class LoraFile:
    """A LoRA that was read.

    Attributes:
        kind: a format of its family, as "kohya", "diffusers" or "comfyui"; "peft" or "mixed".
        family: that it was made for; None where nothing tells.
        metadata: texts, as they are in the file; and peft's config, where it lies beside the file.
    """

    kind: str
    family: LoraFamily | None
    weights: LayerChanges
    metadata: Mapping[str, str]


def read_lora(path: Path, family: LoraFamily | None = None) -> LoraFile:
    """Read a LoRA of any format, on the CPU. Its header is checked before a tensor is touched.

    Args:
        path: of the file.
        family: in whose words it is read; None for those of all families that are known.

    Raises `CheckpointError`, naming the file, if it is missing, damaged, or no LoRA in those words.
    """
    path = Path(path)
    header = read_header(path)
    metadata = {**beside(path), **header.metadata}
    refuse_other_types(metadata, str(path))
    header = replace(header, tensors=of_the_lora(header.tensors, str(path)))
    known = [family] if family else list(lora_families().values())
    readers(known, header.tensors, str(path))
    _refuse_oversized(header, path)
    _refuse_types(header, path)
    return understood(_tensors(path, header), metadata, str(path), known)


def understood(
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    source: str,
    known: Sequence[LoraFamily] | None = None,
) -> LoraFile:
    """The LoRA that tensors are, in the words of the families `known`, or of all. Raises `CheckpointError` naming `source`."""
    state = of_the_lora(state, source)
    families = readers(known or list(lora_families().values()), state, source)
    reader = told_by(metadata, families) or families[0]
    kind, weights = decode(state, metadata, source, reader)
    families = same_words(families, reader, state)
    return LoraFile(kind, family_of(weights, metadata, families), weights, metadata)


def _refuse_oversized(header: Header, path: Path) -> None:
    for key, tensor in header.tensors.items():
        role = role_of(key)
        if role and role[1] == DOWN and tensor.shape and tensor.shape[0] > LARGEST_RANK:
            raise CheckpointError(
                f"{path} has a rank of {tensor.shape[0]}",
                f"a rank of at most {LARGEST_RANK}",
                "choose another file",
            )


def _refuse_types(header: Header, path: Path) -> None:
    """What torch cannot read, or nobody can multiply with. An alpha may be a whole number."""
    for key, tensor in header.tensors.items():
        role = role_of(key)
        whole = role is not None and role[1] in (ALPHA, ".on_input") and tensor.dtype[0] in "IU"
        if tensor.dtype not in TYPES.values() and not whole:
            raise CheckpointError(
                f"{path}: {shown(key, 200)} has numbers of the type {tensor.dtype}",
                f"one of {', '.join(TYPES.values())}",
                "choose another file",
            )


def _tensors(path: Path, header: Header) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in header.tensors}
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged or incomplete ({error})",
            "a whole safetensors file",
            "copy or download it again",
        ) from None


def write_lora(
    path: Path,
    weights: LayerChanges,
    metadata: Mapping[str, str],
    *,
    family: LoraFamily,
    kind: str = "",
    dtype: torch.dtype | None = None,
) -> None:
    """Write a LoRA; the file is whole or not there.

    Args:
        path: ends in .safetensors; its stem becomes the LoRA's name in hosts.
        metadata: beside what is filled in here; what it says goes first.
        family: whose names the layers get.
        kind: one of the family's formats; "" is the first of them.
        dtype: of the weights (alpha stays float32); None leaves each as it is.

    Raises:
        CheckpointError: the LoRA is not finite, or has no effect.
        StorageError: the disk is full or the folder cannot be written.
    """
    refuse_useless(weights, path)
    if dtype:
        weights = _rounded(weights, dtype, path)
    state, facts = encode(weights, kind or family.formats[0], family)
    told = {**standard_metadata(weights, path.stem, family), **about_training(metadata), **facts}
    write_atomically(path, lambda temporary: _write(temporary, state, {**told, **hashes(digest(state))}))


def _write(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    with path.open("wb") as file:
        write_tensors(file, state, metadata)


def _rounded(weights: LayerChanges, dtype: torch.dtype, path: Path) -> LayerChanges:
    """In another dtype. Raises `CheckpointError` where that cannot hold them."""
    rounded = {place: layer.to(dtype) for place, layer in weights.items()}
    name = str(dtype).removeprefix("torch.")
    if useless(rounded) or not all(map(finite, rounded.values())):
        raise CheckpointError(
            f"the LoRA for {path} has weights too {'small' if useless(rounded) else 'large'} for {name}",
            "a precision that can hold them",
            "write float32",
        )
    return rounded


def refuse_useless(weights: LayerChanges, path: Path) -> None:
    """Raise `CheckpointError` for a LoRA that holds NaN or infinity, or has no effect."""
    broken = [place for place, layer in weights.items() if not finite(layer)]
    if broken:
        raise CheckpointError(
            f"the LoRA for {path} holds NaN or infinity in {len(broken)} layers, such as {'.'.join(broken[0])}",
            "finite numbers",
            "go back to an earlier checkpoint, or lower training.learning_rate",
        )
    if useless(weights):
        raise CheckpointError(
            f"the LoRA for {path} is 0 everywhere: it would have no effect",
            "a LoRA that was trained",
            "choose another file",
        )
