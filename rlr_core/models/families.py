"""The families of checkpoints that can be trained on, as far as they differ in data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path(__file__).with_name("configs")


@dataclass(frozen=True)
class Part:
    """A component in the original (LDM) layout.

    Attributes:
        prefix: of its tensors' names.
        count: how many tensors a whole one has.
        ignored: pattern of tensors that may be there or not.
        pad: of a text encoder, the number that fills up short texts, if it is not that of the end.
    """

    prefix: str
    count: int
    ignored: str = r"(?!)"
    pad: int | None = None


@dataclass(frozen=True)
class Family:
    """What sets a family apart.

    Attributes:
        title: for people.
        pipeline: what diffusers calls it in `model_index.json`.
        context: the width of the text conditioning, which tells the families apart.
        base_version: `ss_base_model_version` of its LoRAs (sd-scripts).
        architectures: prediction type → `modelspec.architecture` (ModelSpec 1.0.1); others have that of "epsilon".
        sizes: prediction type → the side of its own pictures in pixels; others have that of "epsilon".
        clip_skip: the layer of the text models whose states are the conditioning, counted from the end; 1 is the last.
        layers_cut: last layers that its text model in diffusers' layout lacks, since they are never used.
        configs: a folder in diffusers' layout without weights.
        parts: component → how the original layout calls it.
    """

    title: str
    pipeline: str
    context: int
    base_version: str
    architectures: Mapping[str, str]
    sizes: Mapping[str, int]
    clip_skip: int
    layers_cut: int
    configs: Path
    parts: Mapping[str, Part]

    @property
    def is_xl(self) -> bool:
        """Whether it has two text encoders, and its UNet is told the picture's size."""
        return "text_encoder_2" in self.parts


EMA = "model_ema.diffusion_model"
"""First letters of the names of the UNet's running mean; what follows is without dots."""
VAE = Part("first_stage_model.", 248, r"loss\.|model_ema\.|logvar|discriminator")
CLIP_L = 196
"""Tensors of CLIP ViT-L's text model."""

SD1 = Family(
    title="Stable Diffusion 1.x",
    pipeline="StableDiffusionPipeline",
    context=768,
    base_version="sd_v1",
    architectures={"epsilon": "stable-diffusion-v1"},
    sizes={"epsilon": 512},
    clip_skip=1,
    layers_cut=0,
    configs=CONFIGS / "sd1",
    parts={
        "unet": Part("model.diffusion_model.", 686),
        "vae": VAE,
        "text_encoder": Part("cond_stage_model.transformer.", CLIP_L, r".*position_ids|text_projection"),
    },
)
SD2 = Family(
    title="Stable Diffusion 2.x",
    pipeline="StableDiffusionPipeline",
    context=1024,
    base_version="sd_v2",
    architectures={"epsilon": "stable-diffusion-v2-512", "v_prediction": "stable-diffusion-v2-768-v"},
    sizes={"epsilon": 512, "v_prediction": 768},
    clip_skip=2,
    layers_cut=1,
    configs=CONFIGS / "sd2",
    parts={
        "unet": Part("model.diffusion_model.", 686),
        "vae": VAE,
        "text_encoder": Part(
            "cond_stage_model.model.",
            280,
            r"transformer\.resblocks\.23\.|logit_scale|attn_mask|text_projection",
            0,
        ),
    },
)
SDXL = Family(
    title="Stable Diffusion XL",
    pipeline="StableDiffusionXLPipeline",
    context=2048,
    base_version="sdxl_base_v1-0",
    architectures={"epsilon": "stable-diffusion-xl-v1-base"},
    sizes={"epsilon": 1024},
    clip_skip=2,
    layers_cut=0,
    configs=CONFIGS / "sdxl",
    parts={
        "unet": Part("model.diffusion_model.", 1680),
        "vae": VAE,
        "text_encoder": Part(
            "conditioner.embedders.0.transformer.", CLIP_L, r".*position_ids|text_projection"
        ),
        "text_encoder_2": Part("conditioner.embedders.1.model.", 389, r"logit_scale|attn_mask", 0),
    },
)
FAMILIES = (SD1, SD2, SDXL)
"""All of them; the first one with a pipeline's name is what an unknown width is taken for."""


def family_of_pipeline(pipeline: str, context: int) -> Family | None:
    """The family of a folder whose `model_index.json` says `pipeline`, and whose UNet takes texts of width `context`."""
    same = [family for family in FAMILIES if family.pipeline == pipeline]
    return next((family for family in same if family.context == context), same[0] if same else None)


def family_titled(title: str) -> Family:
    """The family of that title."""
    return next(family for family in FAMILIES if family.title == title)


def own_size(family: Family, prediction: str) -> int:
    """Pixels."""
    return family.sizes.get(prediction, family.sizes["epsilon"])


def lora_metadata(family: Family, prediction: str) -> dict[str, str]:
    """For the metadata of a LoRA file: which family it belongs to (sd-scripts, ModelSpec 1.0.1)."""
    velocity = prediction == "v_prediction"
    marked = "_v" if velocity and not family.is_xl else ""
    architecture = family.architectures.get(prediction, family.architectures["epsilon"])
    return {
        "ss_base_model_version": family.base_version + marked,
        "ss_v2": str(family.base_version == SD2.base_version),
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.prediction_type": "v" if velocity else "epsilon",
    }
