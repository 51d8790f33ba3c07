"""LAION's aesthetic predictor v2: an affine function of CLIP's unit picture embedding, fitted to people's marks from 1 to 10.

Its five linear layers have nothing between them, so that the score is a + b · cos(embedding, one direction): it knows no
prompt, and it can be driven far past 10 (https://github.com/christophschuhmann/improved-aesthetic-predictor).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from rlr_core.rewards.clipscore import OPENAI_CLIP, VIT_L
from rlr_core.rewards.cosine import clip_tensors
from rlr_core.rewards.networks import Placement, affine_head, frozen, rerun
from rlr_core.rewards.preprocessing import cropped_as_torchvision, prepare
from rlr_core.rewards.published import Published
from rlr_core.rewards.published_files import WeightsFile, read_tensors


class Aesthetic:
    """The score of a picture, whatever its prompt."""

    def __init__(self, tower: Any, head: Any, placement: Placement):
        self._tower, self._head, self._placement = tower, head, placement

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] → (B,)."""
        pixels = prepare(images, self._tower.config.image_size, cropped_as_torchvision)
        embedding = self._tower(pixel_values=pixels.to(self._placement.dtype)).image_embeds
        unit = functional.normalize(embedding.to(self._placement.exact), dim=1)
        return self._head["layers"](unit).squeeze(1)


def aesthetic(paths: Sequence[Path], placement: Placement, architecture: dict[str, Any] = VIT_L) -> Aesthetic:
    """From CLIP's file, of which the text tower is not read, and the head's."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    clip_path, head_path = paths
    width = architecture["projection_dim"]
    config = CLIPVisionConfig(**architecture["vision_config"], projection_dim=width)
    tensors = clip_tensors(read_tensors(clip_path))
    pictures = {n: t for n, t in tensors.items() if n.startswith(("vision_model.", "visual_projection."))}
    tower = frozen(lambda: CLIPVisionModelWithProjection(config), pictures, clip_path, placement)
    head = frozen(lambda: affine_head(width), read_tensors(head_path), head_path, placement, placement.exact)
    if placement.rerun:
        rerun(tower.vision_model.encoder.layers)
    return Aesthetic(tower, head, placement)


AESTHETIC = Published(
    name="aesthetic",
    measures="how much people like a picture, whatever the prompt",
    range="about 4 to 7",
    files=(
        OPENAI_CLIP,
        WeightsFile(
            repository="camenduru/improved-aesthetic-predictor",
            name="sac+logos+ava1-l14-linearMSE.pth",
            size=3_714_759,
            licence="Apache-2.0",
            digest="sha256:21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
            page="https://github.com/christophschuhmann/improved-aesthetic-predictor",
        ),
    ),
    make=aesthetic,
)
