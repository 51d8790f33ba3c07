"""Which family a MODEL is of, and what is known of it; what is none is refused by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rlr_core.errors import CheckpointError
from rlr_core.families import SD1, SD2, SDXL, GenericFamily, LoraFamily, StableDiffusionFamily


@dataclass(frozen=True)
class HostFamily:
    """A family of ComfyUI's MODELs.

    Attributes:
        lora: what LoRA files know of it.
        network: what they call the denoiser.
        side: pixels of its own pictures' sides.
        learning_rate: Adam's, where nobody sets one.
        experimental: whether ComfyUI alone reads its LoRAs. Such networks read texts of any length, and some of them take one
            mask for a whole batch, so that they are asked for one sample at a time.
    """

    lora: LoraFamily
    network: str
    side: int
    learning_rate: float
    experimental: bool


def _stable_diffusion(family: StableDiffusionFamily) -> HostFamily:
    rate = family.defaults["training.learning_rate"].value
    return HostFamily(family.lora, "unet", family.own_size("epsilon"), rate, experimental=False)


ATTENTION = r".*(attn|attention|single_blocks\.\d+\.linear).*"
"""Layers of attention in the networks below; FLUX's single blocks have them in one with the feed-forward layers."""


def _experimental(title: str) -> HostFamily:
    """1e-4 is what LoRAs of transformers are mostly trained at with Adam; nothing here was measured at their size."""
    key = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    targets = {"attention": ATTENTION, "all": r".*"}
    lora = GenericFamily(f"comfyui-{key}", f"{title} (experimental, for ComfyUI only)", key, targets=targets)
    return HostFamily(lora, lora.network, 1024, 1e-4, experimental=True)


KNOWN = {
    **{
        name: _stable_diffusion(family)
        for name, family in {"SD15": SD1, "SD20": SD2, "SDXL": SDXL}.items()
    },
    **{
        name: _experimental(title)
        for name, title in {
            "SD3": "Stable Diffusion 3",
            "AuraFlow": "AuraFlow",
            "PixArtAlpha": "PixArt-α",
            "PixArtSigma": "PixArt-Σ",
            "Flux": "FLUX.1 dev",
            "FluxSchnell": "FLUX.1 schnell",
            "Flux2": "FLUX.2",
            "Chroma": "Chroma",
            "Lumina2": "Lumina 2",
            "ZImage": "Z-Image",
        }.items()
    },
}  # fmt: skip
"""The names of ComfyUI's model configs → families. Those that are not experimental have files of names of their own."""


def family_of(patcher: Any) -> HostFamily:
    """Of a MODEL. Raises `CheckpointError`."""
    base = patcher.model
    name = type(base.model_config).__name__
    if name not in KNOWN:
        experimental = [kind for kind, family in KNOWN.items() if family.experimental]
        raise CheckpointError(
            f"a MODEL of ComfyUI's kind {name}",
            f"Stable Diffusion 1.x, 2.x or XL, or as an experiment {', '.join(experimental)}",
            "choose another checkpoint",
        )
    if base.concat_keys:
        raise CheckpointError(
            f"a MODEL that is shown a picture to work on ({', '.join(base.concat_keys)})",
            "one that paints from text alone",
            "choose the checkpoint that the inpainting one was made of",
        )
    return KNOWN[name]
