"""How well a picture fits its prompt, as a CLIP-like pair of towers sees it: scale · cos(picture, prompt)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rlr_core.rewards.networks import Placement, rerun
from rlr_core.rewards.preprocessing import Fit, cropped, prepare
from rlr_core.rewards.tokens import Tokens


class Cosine:
    """scale · cos(picture, prompt); each distinct prompt is encoded once.

    Args:
        placement: of both towers.
        tokens: for prompts.
        side: of the square pictures that the image tower takes.
        fit: makes them square.
        picture_tower: (B, 3, side, side) → (B, D).
        text_tower: (1, L) → (1, D).
        scale: of the cosine.
    """

    def __init__(
        self,
        placement: Placement,
        tokens: Tokens,
        side: int,
        fit: Fit,
        picture_tower: Callable[[Tensor], Tensor],
        text_tower: Callable[[Tensor], Tensor],
        scale: float,
    ):
        self._placement, self._tokens, self._side, self._fit = placement, tokens, side, fit
        self._picture_tower, self._text_tower, self._scale = picture_tower, text_tower, scale
        self._known: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] → (B,)."""
        pictures = self._picture_tower(prepare(images, self._side, self._fit).to(self._placement.dtype))
        texts = torch.stack([self._text(prompt) for prompt in prompts])
        return self._scale * (self._unit(pictures) * texts).sum(1)

    @torch.no_grad()
    def _text(self, prompt: str) -> Tensor:
        """(D,), unit length."""
        if prompt not in self._known:
            tokens = self._tokens(prompt).to(self._placement.device)
            self._known[prompt] = self._unit(self._text_tower(tokens))[0]
        return self._known[prompt]

    def _unit(self, features: Tensor) -> Tensor:
        return functional.normalize(features.to(self._placement.exact), dim=1)


def transformers_cosine(
    clip: Any, placement: Placement, tokens: Tokens, *, scale: float | None = None
) -> Cosine:
    """Of transformers' CLIPModel; without a scale its own, exp(logit_scale)."""
    if placement.rerun:
        rerun(clip.vision_model.encoder.layers)

    def picture_tower(pixels: Tensor) -> Tensor:
        return clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)

    def text_tower(tokens: Tensor) -> Tensor:
        return clip.text_projection(clip.text_model(input_ids=tokens).pooler_output)

    side = clip.config.vision_config.image_size
    scale = float(clip.logit_scale.exp()) if scale is None else scale
    return Cosine(placement, tokens, side, cropped, picture_tower, text_tower, scale)


def clip_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what older versions of transformers stored and none needs: the positions' numbers."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(".position_ids")}
