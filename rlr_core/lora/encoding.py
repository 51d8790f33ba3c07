"""`LoraWeights` → tensors under a format's names, without changing a bit of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rlr_core.errors import CheckpointError
from rlr_core.families import LoraFamily, Place, any_of
from rlr_core.lora.formats import DOWN, PEFT, ROLES, UP
from rlr_core.lora.lycoris import ALPHA, MAGNITUDE, LycorisLayer
from rlr_core.lora.lycoris_files import carried
from rlr_core.lora.peft_config import ADAPTER_METADATA
from rlr_core.lora.weights import LayerChanges, LayerWeights


def encode(weights: LayerChanges, kind: str, family: LoraFamily) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under the names of a format, and the metadata that belong to them.

    Args:
        kind: one of the family's formats.
        family: whose names they are.

    Raises `CheckpointError` for a layer that the format has no name for, or cannot have as it is.
    """
    if kind not in family.formats:
        raise CheckpointError(
            f"the format {kind} for {family.title}", any_of(family.formats), "choose another format"
        )
    weights = {place: carried(place, layer, kind, family) for place, layer in weights.items()}
    state: dict[str, Tensor] = {}
    loras: dict[Place, LayerWeights] = {}
    for place, layer in weights.items():
        stem = _stem(place, kind, family)
        if isinstance(layer, LycorisLayer):
            state |= {stem + end: value for end, value in layer.in_file().items()}
            continue
        assert isinstance(layer, LayerWeights)
        loras[place] = layer
        names = PEFT if kind == "diffusers" else {role: role for role in ROLES}
        state[stem + names[DOWN]], state[stem + names[UP]] = layer.down, layer.up
        if layer.magnitude is not None:
            state[stem + names[MAGNITUDE]] = (
                _peft_magnitude(layer) if kind == "diffusers" else layer.magnitude
            )
        if kind != "diffusers":
            state[stem + ALPHA] = torch.tensor(layer.alpha, dtype=torch.float32)
    return state, _adapter_metadata(loras) if kind == "diffusers" else {}


def _stem(place: Place, kind: str, family: LoraFamily) -> str:
    try:
        return family.stem(place, kind)
    except KeyError:
        raise CheckpointError(
            f"{place.network}.{place.path} has no name in {kind}'s format for this family ({family.key})",
            f"a layer of {family.title}, in one of the formats {any_of(family.formats)}",
            "choose another format",
        ) from None


def _peft_magnitude(layer: LayerWeights) -> Tensor:
    """(out,), of a convolution (1, out, 1, 1). Raises `CheckpointError` for norms of inputs, which peft does not know."""
    assert layer.magnitude is not None
    if layer.by_input:
        raise CheckpointError(
            "a DoRA with a norm for each input in diffusers' format",
            "a norm for each output, or a format that tells them apart (kohya, comfyui)",
            "choose another format, or merge it into the checkpoint (`rlr lora merge`)",
        )
    flat = layer.magnitude.flatten()
    return flat if layer.down.dim() == 2 else flat.reshape(1, -1, 1, 1)


def _adapter_metadata(weights: Mapping[Place, LayerWeights]) -> dict[str, str]:
    """What diffusers gives to `peft.LoraConfig`, for each network."""
    facts: dict[str, Any] = {}
    for network in dict.fromkeys(place.network for place in weights):
        layers = {place.path: layer for place, layer in weights.items() if place.network == network}
        first = next(iter(layers.values()))
        # transformers' newer text models have no part "text_model": the pattern must fit with it and without
        names = {path: path.removeprefix("text_model.") for path in layers}
        config = {
            "r": first.rank,
            "lora_alpha": first.alpha,
            "rank_pattern": {names[p]: layer.rank for p, layer in layers.items() if layer.rank != first.rank},
            "alpha_pattern": {
                names[p]: layer.alpha for p, layer in layers.items() if layer.alpha != first.alpha
            },
            "target_modules": list(names.values()),
            "use_dora": any(layer.magnitude is not None for layer in layers.values()),
        }
        facts |= {f"{network}.{key}": value for key, value in config.items()}
    return {ADAPTER_METADATA: json.dumps(facts, sort_keys=True)}
