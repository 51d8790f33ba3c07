"""Which family a LoRA was made for: by the sizes of its layers, else by what its metadata say."""

from __future__ import annotations

from collections.abc import Mapping

from rlr_core.families import FAMILIES, SD1, SD2, SDXL, LoraFamily
from rlr_core.families.stable_diffusion.stems import TEXT, TEXT_2, UNET
from rlr_core.lora.weights import LoraWeights

WIDTHS = {(UNET, family.context): family.lora for family in FAMILIES.values()} | {
    (TEXT, SD2.context): SD2.lora
}
"""Network and width of the text that it reads (UNet) or of its states (a text encoder of its own) → family."""


def family_of(weights: LoraWeights, metadata: Mapping[str, str]) -> LoraFamily | None:
    """The family; None where nothing tells."""
    for (network, path), layer in weights.items():
        if network == TEXT_2 or "transformer_blocks.1." in path:
            return SDXL.lora
        reads_text = network == UNET and path.endswith(("attn2.to_k", "attn2.to_v"))
        if (reads_text or path.endswith("self_attn.q_proj")) and (network, layer.down.shape[1]) in WIDTHS:
            return WIDTHS[network, layer.down.shape[1]]
    return _told(metadata) or (SD1.lora if _only_small_text(weights) else None)


def _only_small_text(weights: LoraWeights) -> bool:
    return all(
        place.network == TEXT and SD1.context in (layer.down.shape[1], layer.up.shape[0])
        for place, layer in weights.items()
    )


def _told(metadata: Mapping[str, str]) -> LoraFamily | None:
    """By sd-scripts' version, or else by ModelSpec's architecture."""
    version, architecture = (
        metadata.get("ss_base_model_version", ""),
        metadata.get("modelspec.architecture", ""),
    )
    if version.startswith("sdxl") or architecture.startswith("stable-diffusion-xl"):
        return SDXL.lora
    second = version.startswith("sd_v2") or metadata.get("ss_v2") == "True"
    if second or architecture.startswith("stable-diffusion-v2"):
        return SD2.lora
    first = version.startswith("sd_v1") or architecture.startswith("stable-diffusion-v1")
    return SD1.lora if first else None
