"""A Stable Diffusion checkpoint of a few hundred thousand random weights, in diffusers' folder layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

CONTEXT = 12
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def build_checkpoint(
    folder: Path, *, unet: dict[str, Any] | None = None, scheduler: dict[str, Any] | None = None
) -> Path:
    """Write it: pictures of 16 × 16 pixels, latents (4, 8, 8), 12 tokens. Keywords override config values."""
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(1)
    StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(),
        tokenizer=_tokenizer(folder.with_name(folder.name + "-tokenizer")),
        unet=_unet(unet or {}),
        scheduler=_scheduler(scheduler or {}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def build_sdxl(folder: Path) -> Path:
    """The same as a Stable Diffusion XL checkpoint: two text encoders, pooled text, the size as a condition."""
    from diffusers import StableDiffusionXLPipeline

    torch.manual_seed(1)
    width = 16
    conditions = {
        "cross_attention_dim": 2 * width,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + width,
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "layers_per_block": 2,
        "use_linear_projection": True,
    }
    StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(layers=2),
        text_encoder_2=_text_encoder(projection=width, layers=2),
        tokenizer=_tokenizer(folder.with_name(folder.name + "-tokenizer")),
        tokenizer_2=_tokenizer(folder.with_name(folder.name + "-tokenizer-2")),
        unet=_unet(conditions),
        scheduler=_scheduler({}),
        add_watermarker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def _unet(overrides: dict[str, Any]) -> Any:
    from diffusers import UNet2DConditionModel

    settings = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**settings, **overrides})


def _vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        mid_block_add_attention=False,
        scaling_factor=0.5,
    )


def _text_encoder(projection: int = 0, layers: int = 1) -> Any:
    """With `projection`, the kind that also gives one vector of that width for the whole prompt."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokens = 2 * len(LETTERS) + 2
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    return kind(
        CLIPTextConfig(
            vocab_size=tokens,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokens - 2,
            eos_token_id=tokens - 1,
            pad_token_id=tokens - 1,
            projection_dim=projection or 512,
        )
    )


def _tokenizer(folder: Path) -> Any:
    """One token for each letter."""
    from transformers import CLIPTokenizer

    words = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer(vocab=str(vocabulary), merges=str(merges), model_max_length=CONTEXT)


def _scheduler(overrides: dict[str, Any]) -> Any:
    from diffusers import DDIMScheduler

    settings = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return DDIMScheduler(**{**settings, **overrides})
