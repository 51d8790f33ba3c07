"""Tensors under a format's names → `LoraWeights`, without changing a bit of them; `encoding` is the way back.

Alpha is a tensor of its own in kohya's and ComfyUI's files. Diffusers' have none: there it is in the metadata
(`lora_adapter_metadata`, read by diffusers 0.35 and later), together with the ranks.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from rlr_core.errors import CheckpointError
from rlr_core.families import LoraFamily, Place
from rlr_core.lora.lycoris import ALPHA, MAGNITUDE, LycorisLayer
from rlr_core.lora.lycoris_files import OWN, lycoris_layer
from rlr_core.lora.lycoris_whole import Unscaled
from rlr_core.lora.peft_config import (
    BESIDE,
    config_facts,
    refuse_other_adapters,
    tells_alpha,
    told_alpha,
)
from rlr_core.lora.weights import LayerChange, LayerChanges, LayerWeights
from rlr_core.safetensors_header import shown

DOWN, UP = ".lora_down.weight", ".lora_up.weight"
PEFT = {DOWN: ".lora_A.weight", UP: ".lora_B.weight", MAGNITUDE: ".lora_magnitude_vector.weight"}
ROLES = {
    DOWN: (
        DOWN,
        PEFT[DOWN],
        ".lora_linear_layer.down.weight",
        "_lora.down.weight",
        ".lora.down.weight",
    ),
    UP: (
        UP,
        PEFT[UP],
        ".lora_linear_layer.up.weight",
        "_lora.up.weight",
        ".lora.up.weight",
    ),
    MAGNITUDE: (MAGNITUDE, PEFT[MAGNITUDE], ".lora_magnitude_vector"),
    ALPHA: (ALPHA,),
    **{part: (part,) for part in sorted(OWN - {".weight"})},
}
"""Role → how a key may end, the usual one first."""
LARGEST_ALPHA = 1e9
"""A file's alpha is float32, and what it multiplies is, too."""
RESCALING = re.compile(r"(lora_[^.]+)\.weight")
"""LyCORIS's (IA)³ has a key that any layer has in a checkpoint, but for its beginning."""


ADAPTER = re.compile(
    r"(?<=\.lora_[AB])\.([\w-]+)(?=\.weight$)|(?<=\.lora_magnitude_vector)\.(?!weight$)([\w-]+)(?=\.weight$|$)"
)
"""peft's name of an adapter in a key, as "default" or diffusers' "default_0"."""


def adapter_of(key: str) -> str:
    """The name that an adapter has in a key of peft's; "" for none."""
    found = ADAPTER.search(key)
    return (found[1] or found[2]) if found else ""


def role_of(key: str) -> tuple[str, str] | None:
    """Stem and role (`DOWN`, `UP`, `ALPHA` or `MAGNITUDE`) of a key; None where it is of no LoRA."""
    key = ADAPTER.sub("", key)
    for role, endings in ROLES.items():
        for ending in endings:
            if key.endswith(ending):
                return key[: -len(ending)], role
    rescaled = RESCALING.fullmatch(key)
    return (rescaled[1], ".weight") if rescaled else None


def decode(
    state: Mapping[str, Tensor], metadata: Mapping[str, str], source: str, family: LoraFamily
) -> tuple[str, LayerChanges]:
    """Format (one of the family's, "peft" or "mixed") and weights, of names that `family` understands.

    Raises `CheckpointError` naming `source`.
    """
    kinds, parts = _sort(state, source, family)
    kind = kinds.pop() if len(kinds) == 1 else "mixed"
    facts = config_facts(metadata, source)
    dora = {place.network for place, part in parts.items() if MAGNITUDE in part}
    refuse_other_adapters(facts, dict.fromkeys(place.network for place in parts), dora, source)
    weights = {
        place: (_of_lycoris if OWN & part.keys() else _layer)(place, part, facts, source)
        for place, part in parts.items()
    }
    _say_untold({place: part for place, part in parts.items() if _scaled(weights[place])}, facts, source)
    return kind, weights


def _scaled(layer: LayerChange) -> bool:
    """Whether alpha counts: not where the file has the weights themselves."""
    return not isinstance(layer, LycorisLayer) or layer.counts


def _say_untold(parts: Mapping[Place, Mapping[str, Tensor]], facts: Mapping[str, Any], source: str) -> None:
    """Say that a scale is not known: without alpha it is 1 in all readers, whatever it was in training."""
    untold = [
        place for place, part in parts.items() if ALPHA not in part and not tells_alpha(facts, place.network)
    ]
    if untold:
        warnings.warn(
            f"{source} does not tell the scale of {len(untold)} of its {len(parts)} layers: it has no alpha, and none lies "
            f"beside it ({BESIDE}); alpha is taken to be the rank, a scale of 1",
            stacklevel=5,
        )


def _sort(
    state: Mapping[str, Tensor], source: str, family: LoraFamily
) -> tuple[set[str], dict[Place, dict[str, Tensor]]]:
    """The formats that occur, and the tensors of each place by role."""
    kinds: set[str] = set()
    parts: dict[Place, dict[str, Tensor]] = {}
    for key, value in state.items():
        stem, role = role_of(key) or ("", "")
        kind, place = family.read(stem) or ("", Place("", ""))
        assert kind, f"`readers` lets no such key pass: {key}"
        if role in parts.setdefault(place, {}):
            raise CheckpointError(
                f"{source} has two tensors for {place.path}, such as {shown(key)}",
                "one of each",
                "choose another file",
            )
        parts[place][role] = _by_output(value) if role == MAGNITUDE and not key.endswith(MAGNITUDE) else value
        kinds.add(kind)
    return kinds, parts


def _by_output(magnitude: Tensor) -> Tensor:
    """peft's norms, (out,) or (1, out, 1, 1), as LyCORIS would write them: whose they are is told by the layout alone."""
    return magnitude.reshape(-1, 1)


def _layer(place: Place, part: dict[str, Tensor], facts: dict[str, Any], source: str) -> LayerWeights:
    """One layer, checked."""
    where = f"{source}: {place.network}.{place.path}"
    if DOWN not in part or UP not in part:
        raise CheckpointError(
            f"{where} is incomplete: it has only {', '.join(part)}",
            "down and up",
            "download or copy it again",
        )
    down, up, magnitude = part[DOWN], part[UP], part.get(MAGNITUDE)
    fits = (
        down.dim() in (2, 4)
        and up.dim() in (2, 4)
        and down.shape[0] == up.shape[1]
        and down.numel()
        and up.numel()
    )
    if not fits or up.shape[2:].numel() != 1 or not (down.is_floating_point() and up.is_floating_point()):
        shapes = f"{_described(down)} and {_described(up)}"
        raise CheckpointError(
            f"{where} has tensors {shapes}",
            "floating-point down (rank, in, …) and up (out, rank)",
            "choose another file",
        )
    if magnitude is not None:
        magnitude = _norms(magnitude, LayerWeights(down, up, 1.0), where)
    alpha = _alpha(part, place, down.shape[0], facts, source)
    return LayerWeights(down, up.reshape(*up.shape[:2], *[1] * (down.dim() - 2)), alpha, magnitude)


def _of_lycoris(place: Place, part: dict[str, Tensor], facts: dict[str, Any], source: str) -> LycorisLayer:
    """One layer of LyCORIS, checked."""
    where = f"{source}: {place.network}.{place.path}"
    parts = {end: value for end, value in part.items() if end not in (ALPHA, MAGNITUDE)}
    layer = lycoris_layer(parts)
    if layer is None or (MAGNITUDE in part and isinstance(layer, Unscaled)):
        told = ", ".join(f"{end} {_described(value)}" for end, value in part.items())
        raise CheckpointError(
            f"{where} has tensors {told}",
            "all those of one LoHa, LoKr, LoRA with a Tucker core, full weights or (IA)³, which fit to each other",
            "download or copy it again",
        )
    if MAGNITUDE in part:
        layer = replace(layer, magnitude=_norms(part[MAGNITUDE], layer, where))
    return replace(layer, alpha=_alpha(part, place, layer.rank, facts, source)) if layer.counts else layer


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def _norms(magnitude: Tensor, layer: LayerChange, where: str) -> Tensor:
    """DoRA's norms, one for each output, (out, 1, …) or (out,), or for each input, (1, in, …) (LyCORIS, `locon.py`)."""
    outputs, inputs = (size or 0 for size in layer.shape[:2])
    shape, places = magnitude.shape, len(layer.shape) - 2
    if (
        len(layer.shape) == 2 and magnitude.dim() == 4
    ):  # of a convolution whose places lie flat in the factors
        inputs, places = shape[1] if shape[1] > 1 and inputs % shape[1] == 0 else inputs, 2
    if magnitude.is_floating_point() and magnitude.numel() == magnitude.shape[:1].numel() == outputs:
        return magnitude.reshape(outputs, *[1] * (places + 1))
    if magnitude.is_floating_point() and shape[:2] == (1, inputs) and magnitude.numel() == inputs > 1:
        return magnitude.reshape(1, inputs, *[1] * places)
    raise CheckpointError(
        f"{where} has DoRA norms {_described(magnitude)}",
        f"one for each of its {outputs} outputs, or (1, {inputs}) for its inputs",
        "choose another file",
    )


def _alpha(part: dict[str, Tensor], place: Place, rank: int, facts: dict[str, Any], source: str) -> float:
    """From its tensor or peft's config; without either it is the rank, as all readers have it."""
    if ALPHA in part:
        value = part[ALPHA]
        alpha = float(value.reshape(-1)[0]) if value.numel() == 1 else math.nan
    else:
        alpha = told_alpha(facts, place, rank, source)
    if not abs(alpha) <= LARGEST_ALPHA:
        raise CheckpointError(
            f"{source}: {place.network}.{place.path} has no usable alpha",
            f"one number of at most {LARGEST_ALPHA:g}",
            "choose another file",
        )
    return alpha
