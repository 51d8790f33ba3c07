"""What sets the families of Stable Diffusion apart, as far as they differ in data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlr_core.families.defaults import Defaults
from rlr_core.families.stable_diffusion.lora import StableDiffusionLora


@dataclass(frozen=True)
class Original:
    """How the original (LDM) layout calls the tensors of a component.

    Attributes:
        prefix: of their names.
        count: how many a whole one has in a file of that layout, not counting those that `ignored` matches.
        ignored: pattern of tensors that may be there or not.
        pad: of a text encoder, the number that fills up short texts, if it is not that of the end.
        open_clip: whether a text encoder has open_clip's names, and not those of transformers.
    """

    prefix: str
    count: int
    ignored: str = r"(?!)"
    pad: int | None = None
    open_clip: bool = False


@dataclass(frozen=True)
class StableDiffusionFamily:
    """Stable Diffusion 1.x, 2.x or XL.

    Attributes:
        pipeline: what diffusers calls it in `model_index.json`.
        sizes: prediction type → the side of its own pictures in pixels; others have that of "epsilon".
        clip_skip: the layer of the text models whose states are the conditioning, counted from the end; 1 is the last.
        layers_cut: last layers that its text model in diffusers' layout lacks, since they are never used.
        configs: a folder in diffusers' layout without weights.
        parts: component → how the original layout calls it.
        lora: what LoRA files know of it.
        defaults: settings of a run on it that nobody sets.
    """

    pipeline: str
    sizes: Mapping[str, int]
    clip_skip: int
    layers_cut: int
    configs: Path
    parts: Mapping[str, Original]
    lora: StableDiffusionLora
    defaults: Defaults

    @property
    def key(self) -> str:
        """Short and unique, as "sdxl"."""
        return self.lora.key

    @property
    def title(self) -> str:
        """For people."""
        return self.lora.title

    @property
    def context(self) -> int:
        """The width of the text conditioning, which tells the families apart."""
        return self.lora.widths["unet"]

    @property
    def is_xl(self) -> bool:
        """Whether it has two text encoders, and its UNet is told the picture's size."""
        return "text_encoder_2" in self.parts

    def own_size(self, prediction: str) -> int:
        """Pixels of a side."""
        return self.sizes.get(prediction, self.sizes["epsilon"])


EMA = "model_ema.diffusion_model"
"""First letters of the names of the UNet's running mean; what follows is without dots."""
VAE = Original("first_stage_model.", 248, r"loss\.|model_ema\.|logvar|discriminator")
CLIP_L = 196
"""Tensors of CLIP ViT-L's text model."""
