"""Stable Diffusion 2.x, ε and v."""

from pathlib import Path

from rlr_core.families.stable_diffusion.defaults import SHARED
from rlr_core.families.stable_diffusion.family import (
    OPEN_CLIP_TENSOR,
    UNET,
    UNET_TENSOR,
    VAE,
    Original,
    StableDiffusionFamily,
)
from rlr_core.families.stable_diffusion.lora import StableDiffusionLora

SD2 = StableDiffusionFamily(
    pipeline="StableDiffusionPipeline",
    sizes={"epsilon": 512, "v_prediction": 768},
    clip_skip=2,
    layers_cut=1,
    configs=Path(__file__).with_name("configs"),
    defaults=SHARED,
    parts={
        "unet": Original(UNET, UNET_TENSOR, 686),
        "vae": VAE,
        "text_encoder": Original(
            prefix="cond_stage_model.model.",
            tensor=rf"(?!transformer\.resblocks\.23\.)({OPEN_CLIP_TENSOR})",
            count=280,
            pad=0,
            open_clip=True,
        ),
    },
    lora=StableDiffusionLora(
        key="sd2",
        title="Stable Diffusion 2.x",
        card="SD2",
        version="sd_v2",
        marks=("sd_v2", "stable-diffusion-v2"),
        widths={"unet": 1024, "text_encoder": 1024},
        second=True,
        architectures={"epsilon": "stable-diffusion-v2-512", "v_prediction": "stable-diffusion-v2-768-v"},
        kohya={"unet": "lora_unet_", "text_encoder": "lora_te_"},
        comfyui={"unet": "diffusion_model.", "text_encoder": "text_encoders.clip_h.transformer."},
    ),
)
