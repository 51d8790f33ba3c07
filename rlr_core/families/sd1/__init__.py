"""Stable Diffusion 1.x."""

from pathlib import Path

from rlr_core.families.stable_diffusion.defaults import SHARED
from rlr_core.families.stable_diffusion.family import (
    CLIP_L,
    CLIP_TENSOR,
    UNET,
    UNET_TENSOR,
    VAE,
    Original,
    StableDiffusionFamily,
)
from rlr_core.families.stable_diffusion.lora import StableDiffusionLora

SD1 = StableDiffusionFamily(
    pipeline="StableDiffusionPipeline",
    sizes={"epsilon": 512},
    clip_skip=1,
    layers_cut=0,
    configs=Path(__file__).with_name("configs"),
    defaults=SHARED,
    parts={
        "unet": Original(UNET, UNET_TENSOR, 686),
        "vae": VAE,
        "text_encoder": Original("cond_stage_model.transformer.", CLIP_TENSOR, CLIP_L),
    },
    lora=StableDiffusionLora(
        key="sd1",
        title="Stable Diffusion 1.x",
        card="SD1",
        version="sd_v1",
        marks=("sd_v1", "stable-diffusion-v1"),
        widths={"unet": 768, "text_encoder": 768},
        architectures={"epsilon": "stable-diffusion-v1"},
        kohya={"unet": "lora_unet_", "text_encoder": "lora_te_"},
        comfyui={"unet": "diffusion_model.", "text_encoder": "text_encoders.clip_l.transformer."},
    ),
)
