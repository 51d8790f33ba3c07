"""Stable Diffusion XL."""

from pathlib import Path

from rlr_core.families.stable_diffusion.defaults import XL
from rlr_core.families.stable_diffusion.family import (
    CLIP_L,
    CLIP_TENSOR,
    OPEN_CLIP_TENSOR,
    UNET,
    UNET_TENSOR,
    VAE,
    Original,
    StableDiffusionFamily,
)
from rlr_core.families.stable_diffusion.lora import StableDiffusionLora

SDXL = StableDiffusionFamily(
    pipeline="StableDiffusionXLPipeline",
    sizes={"epsilon": 1024},
    clip_skip=2,
    layers_cut=0,
    configs=Path(__file__).with_name("configs"),
    defaults=XL,
    parts={
        "unet": Original(UNET, UNET_TENSOR, 1680),
        "vae": VAE,
        "text_encoder": Original("conditioner.embedders.0.transformer.", CLIP_TENSOR, CLIP_L),
        "text_encoder_2": Original(
            "conditioner.embedders.1.model.",
            rf"text_projection|{OPEN_CLIP_TENSOR}",
            389,
            pad=0,
            open_clip=True,
        ),
    },
    lora=StableDiffusionLora(
        key="sdxl",
        title="Stable Diffusion XL",
        card="SDXL",
        version="sdxl_base_v1-0",
        marks=("sdxl", "stable-diffusion-xl"),
        widths={"unet": 2048, "text_encoder": 768, "text_encoder_2": 1280},
        marks_velocity=False,
        architectures={"epsilon": "stable-diffusion-xl-v1-base"},
        kohya={"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
        comfyui={
            "unet": "diffusion_model.",
            "text_encoder": "text_encoders.clip_l.transformer.",
            "text_encoder_2": "text_encoders.clip_g.transformer.",
        },
        original_unet=True,
        attention_in_first_up_block=True,
        depth=10,
    ),
)
