"""Published rewards at reduced size, in the published files' layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlr_core.bench.random_weights import write_random
from rlr_core.rewards import PUBLISHED
from rlr_core.rewards.networks import Placement
from rlr_core.rewards.published import Scorer

CPU = torch.device("cpu")
PROMPTS = ["a red cat", "a dog", "a red cat"]


def clip(activation: str) -> dict[str, Any]:
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "hidden_act": activation,
    }
    vision = {**tower, "image_size": 28, "patch_size": 14}
    return {"projection_dim": 16, "text_config": tower, "vision_config": vision}


OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 28, "layers": 2, "width": 32, "head_width": 16, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
BLIP = {
    "vision": {
        "image_size": 32,
        "patch_size": 16,
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "layer_norm_eps": 1e-6,
    },
    "text": {
        "vocab_size": 160,
        "bos_token_id": 101,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "encoder_hidden_size": 32,
        "max_position_embeddings": 64,
        "is_decoder": True,
    },
}
SMALL: dict[str, dict[str, Any]] = {
    "pickscore": clip("gelu"),
    "hpsv2": OPEN_CLIP,
    "hpsv2.1": OPEN_CLIP,
    "aesthetic": clip("quick_gelu"),
    "imagereward": BLIP,
    "clipscore": clip("quick_gelu"),
}


def small_files(name: str, folder: Path) -> list[Path]:
    return write_random(name, folder, SMALL[name])


def small_scorer(
    name: str, paths: list[Path], dtype: torch.dtype = torch.float32, *, rerun: bool = False
) -> Scorer:
    return PUBLISHED[name].make(paths, Placement(CPU, dtype, rerun), architecture=SMALL[name])  # pyright: ignore[reportCallIssue]
