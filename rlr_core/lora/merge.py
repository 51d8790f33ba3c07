"""A LoRA added to a checkpoint's weights: a single file in the original layout, or a folder in diffusers'.

Each tensor is computed in float32 and stored as it was before; one at a time is in memory.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from rlr_core.errors import CheckpointError
from rlr_core.families import FAMILIES, LoraFamily, Place, StableDiffusionFamily, any_of
from rlr_core.families.stable_diffusion.stems import UNET
from rlr_core.lora.files import LoraFile, read_lora, refuse_useless
from rlr_core.lora.lycoris_whole import Full
from rlr_core.lora.tensor_file import write_stream
from rlr_core.lora.weights import LayerChange, LayerChanges
from rlr_core.safetensors_header import TYPES, Header, file_order, read_header, shown
from rlr_core.storage import refuse_overwriting, storing, temporary_beside, write_atomically

OPEN_CLIP_LAYERS = {
    "self_attn.q_proj": ("attn.in_proj_weight", 0),
    "self_attn.k_proj": ("attn.in_proj_weight", 1),
    "self_attn.v_proj": ("attn.in_proj_weight", 2),
    "self_attn.out_proj": ("attn.out_proj.weight", None),
    "mlp.fc1": ("mlp.c_fc.weight", None),
    "mlp.fc2": ("mlp.c_proj.weight", None),
}
"""Layer → tensor of an OpenCLIP text encoder, and which third of its rows (None: all)."""


class Target(NamedTuple):
    """Where a layer's weight is in a file: the tensor, which third of its rows (None: all), and whether it lies transposed."""

    key: str
    third: int | None = None
    transposed: bool = False


Changes = Mapping[str, list[tuple[Target, LayerChange]]]
"""Tensor → what is added to it, and where."""


def merge(lora: Path, checkpoint: Path, out: Path, strength: float, *, force: bool = False) -> int:
    """Write `checkpoint` with `lora` at `strength` to `out`; returns the number of tensors that changed.

    Args:
        lora: file.
        checkpoint: file or folder.
        out: of the same kind.
        strength: a finite number other than 0.
        force: whether a file at `out` is replaced, which may be one of the others; a folder never is.

    Raises:
        CheckpointError: something is missing, damaged or does not fit; nothing is written.
        StorageError: `out` exists, the disk is full, or the folder cannot be written.
    """
    if not math.isfinite(strength) or strength == 0:
        raise CheckpointError(
            f"a strength of {strength:g}", "a number other than 0, such as 0.8", "change it"
        )
    refuse_overwriting([out], force)
    file = read_lora(lora)
    refuse_useless(file.weights, lora)
    note = f"{lora.stem} at {strength:g}"
    if os.path.isdir(checkpoint):
        refuse_overwriting([out], force=False)
        return _merge_folder(file.weights, checkpoint, out, strength, note)
    header = read_header(checkpoint)
    targets = _targets(file, header, str(checkpoint))
    changes = _changes(file.weights, targets, header, str(checkpoint))
    write_atomically(out, lambda path: _copy(checkpoint, header, path, changes, strength, note))
    return len(changes)


def _merge_folder(weights: LayerChanges, folder: Path, out: Path, strength: float, note: str) -> int:
    plans: dict[Path, tuple[Header, Changes]] = {}
    for network in dict.fromkeys(place.network for place in weights):
        plans |= _plan(folder, network, {p: layer for p, layer in weights.items() if p.network == network})
    _refuse_within(out, folder)
    temporary = temporary_beside(out)
    changed = {os.path.realpath(file) for file in plans}

    def skip(where: str, names: list[str]) -> list[str]:
        return [name for name in names if os.path.realpath(os.path.join(where, name)) in changed]

    try:
        with storing(out), _whole(folder):
            shutil.copytree(folder, temporary, ignore=skip)
            for file, (header, changes) in plans.items():
                _copy(file, header, temporary / file.relative_to(folder), changes, strength, note)
            os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sum(len(changes) for _, changes in plans.values())


def _refuse_within(out: Path, folder: Path) -> None:
    """A folder that is copied into itself has no end."""
    if folder.resolve() in out.resolve().parents:
        raise CheckpointError(f"{out} is inside {folder}", "a place outside of it", "choose another")


@contextmanager
def _whole(folder: Path) -> Iterator[None]:
    """Say what of a folder cannot be copied, such as a link to nothing."""
    try:
        yield
    except shutil.Error as error:
        source, _, reason = error.args[0][0]
        raise CheckpointError(
            f"{source} cannot be copied: {reason}", f"files in {folder} that can be read", "remove it"
        ) from None


def _plan(folder: Path, network: str, weights: LayerChanges) -> dict[Path, tuple[Header, Changes]]:
    """The network's files (shards, and variants beside each other) with what changes in them."""
    headers = {file: read_header(file) for file in sorted((folder / network).glob("*.safetensors"))}
    keys = {key for header in headers.values() for key in header.tensors}
    targets, weights = _with_biases({place: _in_folder(place, keys) for place in weights}, weights)
    _refuse_absent(
        [place for place, target in targets.items() if target.key not in keys], weights, f"{folder}/{network}"
    )
    plans = {}
    for file, header in headers.items():
        mine = {place: target for place, target in targets.items() if target.key in header.tensors}
        if mine:
            plans[file] = header, _by_tensor(mine, weights, header, str(file))
    return plans


def _with_biases(
    targets: Mapping[Place, Target], weights: LayerChanges
) -> tuple[dict[Place, Target], dict[Place, LayerChange]]:
    """The same, and what full weights of LyCORIS do to biases as if these were layers of their own."""
    places, changes = dict(targets), dict(weights)
    for place, layer in weights.items():
        if layer.bias is not None:
            own, (key, third, _) = Place(place.network, f"{place.path}.bias"), targets[place]
            # open_clip's projection is a tensor without a bias: an impossible name, too
            places[own] = Target(re.sub("weight$", "bias", key) if key.endswith("weight") else "", third)
            changes[own] = Full({".diff": layer.bias}, 1.0)
    return places, changes


def _in_folder(place: Place, keys: Iterable[str]) -> Target:
    key = f"{place.path}.weight"
    return Target(key if key in keys else key.removeprefix("text_model."))


def _family_of_single_file(header: Header, source: str) -> StableDiffusionFamily:
    """By the width of the text that its UNet looks at, or else by where its text encoders are. Raises `CheckpointError`."""
    widths = {
        info.shape[-1]
        for name, info in header.tensors.items()
        if name.endswith("attn2.to_k.weight") and info.shape
    }
    for family in FAMILIES.values():
        prefixes = tuple(part.prefix for name, part in family.parts.items() if "text" in name)
        if widths == {family.context} or (not widths and any(n.startswith(prefixes) for n in header.tensors)):
            return family
    raise CheckpointError(
        f"{source} is of no family that is known", "a Stable Diffusion checkpoint", "choose another"
    )


def _targets(file: LoraFile, header: Header, source: str) -> dict[Place, Target]:
    """Of the LoRA's layers in a single file."""
    other = file.family
    if other and other.key not in FAMILIES:
        return {place: _named(place, other) for place in file.weights}
    family = _family_of_single_file(header, source)
    return {place: _in_single_file(place, family) for place in file.weights}


def _named(place: Place, family: LoraFamily) -> Target:
    """In the checkpoint of a family that is not one of Stable Diffusion's."""
    if place.network not in family.tensors:
        raise CheckpointError(
            f"the LoRA is for {family.title}, whose checkpoints nothing is merged into",
            f"a LoRA for {any_of(each.title for each in FAMILIES.values())}",
            "load the LoRA beside the checkpoint",
        )
    return Target(f"{family.tensors[place.network]}{place.path}.weight")


def _changes(weights: LayerChanges, targets: Mapping[Place, Target], header: Header, source: str) -> Changes:
    targets, weights = _with_biases(targets, weights)
    _refuse_absent([p for p, target in targets.items() if target.key not in header.tensors], weights, source)
    return _by_tensor(targets, weights, header, source)


def _in_single_file(place: Place, family: StableDiffusionFamily) -> Target:
    """The tensor in the original layout; an impossible name where there is none."""
    part = family.parts.get(place.network)
    if part is None:
        return Target("")
    if place.network == UNET:
        try:
            return Target(f"{part.prefix}{family.lora.ldm_path(place.path)}.weight")
        except KeyError:
            return Target("")
    if not part.open_clip:
        return Target(f"{part.prefix}{place.path}.weight")
    if place.path == "text_projection":  # open_clip multiplies from the left
        return Target(f"{part.prefix}text_projection", transposed=True)
    found = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)", place.path)
    if not found or found[2] not in OPEN_CLIP_LAYERS:
        return Target("")
    name, third = OPEN_CLIP_LAYERS[found[2]]
    return Target(f"{part.prefix}transformer.resblocks.{found[1]}.{name}", third)


def _refuse_absent(absent: list[Place], weights: LayerChanges, source: str) -> None:
    if absent:
        raise CheckpointError(
            f"{source} lacks {len(absent)} of the LoRA's {len(weights)} layers, such as {'.'.join(absent[0])}",
            "a checkpoint of the family that the LoRA was made for, with safetensors weights",
            "choose another",
        )


def _by_tensor(
    targets: Mapping[Place, Target], weights: LayerChanges, header: Header, source: str
) -> Changes:
    """Checked against the tensors' shapes."""
    changes: dict[str, list[tuple[Target, LayerChange]]] = {}
    for place, target in targets.items():
        layer, key = weights[place], target.key
        shape = header.tensors[key].shape[::-1] if target.transposed else header.tensors[key].shape
        rows = shape[0] if target.third is None else shape[0] // 3
        if header.tensors[key].dtype not in TYPES.values():
            raise CheckpointError(
                f"{key} of {source} has numbers of the type {header.tensors[key].dtype}",
                f"one of {', '.join(TYPES.values())}",
                "choose a checkpoint that is not quantised",
            )
        if not layer.fits((rows, *shape[1:])):
            raise CheckpointError(
                f"{key} of {source} has the shape {tuple(shape)}",
                f"{' × '.join(str(size or 'any') for size in layer.shape)}, as in the LoRA",
                "choose another",
            )
        changes.setdefault(key, []).append((target, layer))
    return changes


def _copy(source: Path, header: Header, target: Path, changes: Changes, strength: float, note: str) -> None:
    """The file, changed. Hashes of the old contents are left out of its metadata."""
    old = {key: text for key, text in header.metadata.items() if "hash" not in key}
    metadata = {**old, "rlr.merged": "; ".join(filter(None, (old.get("rlr.merged"), note)))}
    with target.open("wb") as out:
        write_stream(out, header.tensors, metadata, _values(source, header, changes, strength))


def _values(source: Path, header: Header, changes: Changes, strength: float) -> Iterator[Tensor]:
    """One after the other, in the order of a file."""
    from safetensors import safe_open

    with safe_open(source, framework="pt") as tensors:
        for name in file_order(header.tensors):
            value = tensors.get_tensor(name)
            yield (
                _changed(value, changes[name], strength, f"{source}: {shown(name)}")
                if name in changes
                else value
            )


def _changed(value: Tensor, layers: list[tuple[Target, LayerChange]], strength: float, where: str) -> Tensor:
    """In the dtype of `value`. Raises `CheckpointError` where a number does not fit into it."""
    new = value.clone()
    for (_, third, transposed), layer in layers:
        if transposed:
            new = layer.applied(value.T, strength).to(value.dtype).T.contiguous()
            continue
        rows = slice(None) if third is None else slice(third * len(value) // 3, (third + 1) * len(value) // 3)
        new[rows] = layer.applied(value[rows], strength).to(value.dtype)
    if not new.float().isfinite().all():
        raise CheckpointError(f"{where} would hold NaN or infinity", "finite weights", "use a lower strength")
    return new
