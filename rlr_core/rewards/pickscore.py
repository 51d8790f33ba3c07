"""PickScore v1 (arXiv 2305.01569): CLIP ViT-H/14, tuned on half a million choices that users made between two pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlr_core.rewards.cosine import Cosine, clip_tensors, transformers_cosine
from rlr_core.rewards.networks import Placement, frozen
from rlr_core.rewards.published import Published
from rlr_core.rewards.published_files import WeightsFile, read_tensors
from rlr_core.rewards.tokens import clip_tokens

VIT_H: dict[str, Any] = {
    "projection_dim": 1024,
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "hidden_act": "gelu",
    },
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 16,
        "num_hidden_layers": 32,
        "hidden_act": "gelu",
        "patch_size": 14,
    },
}
"""What transformers' CLIPConfig is made of; the rest has its defaults."""


def pickscore(paths: Sequence[Path], placement: Placement, architecture: dict[str, Any] = VIT_H) -> Cosine:
    """exp(logit_scale) · cos(picture, prompt), each picture with its own prompt."""
    from transformers import CLIPConfig, CLIPModel

    (path,) = paths
    tensors = clip_tensors(read_tensors(path))
    clip = frozen(lambda: CLIPModel(CLIPConfig(**architecture)), tensors, path, placement)
    return transformers_cosine(clip, placement, clip_tokens("pickscore"))


PICKSCORE = Published(
    name="pickscore",
    measures="which of two pictures people prefer for a prompt",
    range="about 18 to 24",
    files=(WeightsFile("yuvalkirstain/PickScore_v1", "model.safetensors", 3_944_000_000, "MIT"),),
    make=pickscore,
)
