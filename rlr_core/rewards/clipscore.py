"""CLIPScore (arXiv 2104.08718, eq. 1), without its factor 2.5 and its cut at 0: OpenAI's CLIP ViT-L/14."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlr_core.rewards.cosine import Cosine, clip_tensors, transformers_cosine
from rlr_core.rewards.networks import Placement, frozen
from rlr_core.rewards.published import Published
from rlr_core.rewards.published_files import WeightsFile, read_tensors
from rlr_core.rewards.tokens import clip_tokens

VIT_L: dict[str, Any] = {
    "projection_dim": 768,
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "hidden_act": "quick_gelu",
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "hidden_act": "quick_gelu",
        "patch_size": 14,
    },
}
"""What transformers' CLIPConfig is made of; the rest has its defaults."""

OPENAI_CLIP = WeightsFile(
    repository="openai/clip-vit-large-patch14",
    name="model.safetensors",
    size=1_710_540_580,
    licence="MIT",
    digest="sha256:a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
)


def clipscore(paths: Sequence[Path], placement: Placement, architecture: dict[str, Any] = VIT_L) -> Cosine:
    """cos(picture, prompt)."""
    from transformers import CLIPConfig, CLIPModel

    (path,) = paths
    tensors = clip_tensors(read_tensors(path))
    clip = frozen(lambda: CLIPModel(CLIPConfig(**architecture)), tensors, path, placement)
    return transformers_cosine(clip, placement, clip_tokens("clipscore"), scale=1.0)


CLIPSCORE = Published(
    name="clipscore",
    measures="how well a picture shows what the prompt says",
    range="-1 to 1, mostly 0.1 to 0.4",
    files=(OPENAI_CLIP,),
    make=clipscore,
)
