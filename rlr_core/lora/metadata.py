"""What a LoRA file says of itself: sd-scripts' `ss_…` and ModelSpec 1.0.1, as hosts show and filter by them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from rlr_core.families import LoraFamily
from rlr_core.lora.lycoris import LycorisLayer
from rlr_core.lora.weights import LayerChange, LayerChanges

HASHES = "sshs_model_hash", "modelspec.hash_sha256"


def standard_metadata(weights: LayerChanges, name: str, family: LoraFamily) -> dict[str, str]:
    """All values are texts. What only the checkpoint knows (its name, v-prediction) goes on top.

    Args:
        name: stem of the file; A1111 calls the LoRA so.
        family: that the LoRA is for.
    """
    rank, alpha = _commonest(weights)
    facts = {
        "ss_network_module": _module(weights) if "kohya" in family.formats else "",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_network_args": json.dumps(_network_arguments(weights)),
        "ss_output_name": name,
        **family.metadata(None),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": family.implementation,
        "modelspec.title": name,
    }
    return {key: text for key, text in facts.items() if text}


def _module(weights: LayerChanges) -> str:
    lycoris = any(isinstance(layer, LycorisLayer) for layer in weights.values())
    return "lycoris.kohya" if lycoris else "networks.lora"


def _commonest(weights: LayerChanges) -> tuple[int, float]:
    """Rank and alpha that most layers have."""
    return Counter((layer.rank, layer.alpha) for layer in weights.values()).most_common(1)[0][0]


def _network_arguments(weights: LayerChanges) -> dict[str, str]:
    spatial = [layer for layer in weights.values() if _is_spatial(layer)]
    arguments = {"conv_dim": str(spatial[0].rank), "conv_alpha": f"{spatial[0].alpha:g}"} if spatial else {}
    if any(layer.magnitude is not None for layer in weights.values()):
        arguments["dora_wd"] = "True"
    return arguments


def _is_spatial(layer: LayerChange) -> bool:
    return len(layer.shape) == 4 and layer.shape[-1] != 1


def hashes(digest: str) -> dict[str, str]:
    """The SHA-256 of what follows the header of a safetensors file, as A1111 and ModelSpec write it."""
    return {"sshs_model_hash": digest, "modelspec.hash_sha256": "0x" + digest}


def about_training(metadata: Mapping[str, str]) -> dict[str, str]:
    """What of a file's metadata is still true when it is written in another format or dtype."""
    made_anew = (*HASHES, "lora_adapter_metadata", "format")
    return {key: value for key, value in metadata.items() if key not in made_anew}
