"""Which family of the core a MODEL is of; what is none is refused by name."""

from __future__ import annotations

from typing import Any

from rlr_core.errors import CheckpointError
from rlr_core.families import SD1, SD2, SDXL, StableDiffusionFamily

KNOWN = {"SD15": SD1, "SD20": SD2, "SDXL": SDXL}
"""The names of ComfyUI's model configs → families."""


def family_of(patcher: Any) -> StableDiffusionFamily:
    """Of a MODEL. Raises `CheckpointError`."""
    base = patcher.model
    name = type(base.model_config).__name__
    if name not in KNOWN:
        raise CheckpointError(
            f"a MODEL of ComfyUI's kind {name}",
            "Stable Diffusion 1.x, 2.x or XL",
            "choose another checkpoint",
        )
    if base.concat_keys:
        raise CheckpointError(
            f"a MODEL that is shown a picture to work on ({', '.join(base.concat_keys)})",
            "one that paints from text alone",
            "choose the checkpoint that the inpainting one was made of",
        )
    return KNOWN[name]
