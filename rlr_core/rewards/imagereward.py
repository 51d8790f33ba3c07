"""ImageReward v1.0 (arXiv 2304.05977): BLIP, whose text tower looks at the picture, tuned on rankings by experts.

The authors' package needs old libraries; its network is that of transformers' BLIP classes under other names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rlr_core.rewards.networks import Placement, affine_head, frozen, part, rerun
from rlr_core.rewards.preprocessing import cropped_as_torchvision, prepare
from rlr_core.rewards.published import Published
from rlr_core.rewards.published_files import WeightsFile, read_tensors
from rlr_core.rewards.tokens import Tokens, bert_tokens

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the head's output over the authors' data; scores have mean 0 and standard deviation 1 there."""
LENGTH = 35
"""Tokens of a prompt, padded."""
BLIP_L: dict[str, Any] = {
    "vision": {
        "image_size": 224,
        "patch_size": 16,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "layer_norm_eps": 1e-6,
    },
    "text": {
        "vocab_size": 30524,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "encoder_hidden_size": 1024,
        "max_position_embeddings": 512,
        "is_decoder": True,
    },
}
"""What transformers' BlipVisionConfig and BlipTextConfig are made of; with is_decoder its layers have cross-attention."""
NAMES = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.": "embeddings.patch_embedding.",
    "blocks.": "encoder.layers.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".attn.qkv.": ".self_attn.qkv.",
    ".attn.proj.": ".self_attn.projection.",
}
"""Part of a name in the published image tower → in transformers' one; `norm.` is post_layernorm."""


class ImageReward:
    """(head(text tower's [CLS], which has seen the picture) − mean) / std."""

    def __init__(self, vision: Any, text: Any, head: Any, tokens: Tokens, placement: Placement):
        self._vision, self._text, self._head = vision, text, head
        self._tokens, self._placement = tokens, placement
        self._known: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] → (B,)."""
        pixels = prepare(images, self._vision.config.image_size, cropped_as_torchvision)
        patches = self._vision(pixel_values=pixels.to(self._placement.dtype)).last_hidden_state
        numbers = torch.cat([self._numbers(prompt) for prompt in prompts]).to(images.device)
        read = self._text(
            input_ids=numbers.clamp(min=0),
            attention_mask=(numbers >= 0).long(),
            encoder_hidden_states=patches,
            is_decoder=False,
        )
        marks = self._head["layers"](read.last_hidden_state[:, 0].to(self._placement.exact)).squeeze(1)
        return (marks - MEAN) / STD

    def _numbers(self, prompt: str) -> Tensor:
        """(1, LENGTH), padded with -1."""
        if prompt not in self._known:
            numbers = self._tokens(prompt)
            self._known[prompt] = functional.pad(numbers, (0, LENGTH - numbers.shape[1]), value=-1)
        return self._known[prompt]


def imagereward(
    paths: Sequence[Path], placement: Placement, architecture: dict[str, Any] = BLIP_L
) -> ImageReward:
    """From ImageReward.pt (or its safetensors copy) and BERT's vocab.txt."""
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    path, vocabulary = paths
    tensors = read_tensors(path)
    sizes, width = architecture["vision"], architecture["text"]["hidden_size"]
    vision = frozen(
        lambda: BlipVisionModel(BlipVisionConfig(**sizes)), vision_tensors(tensors), path, placement
    )
    config = BlipTextConfig(**architecture["text"])
    texts = part(tensors, "blip.text_encoder.")
    texts.pop("embeddings.position_ids", None)
    text = frozen(lambda: BlipTextModel(config, add_pooling_layer=False), texts, path, placement)
    head = frozen(lambda: affine_head(width), part(tensors, "mlp."), path, placement, placement.exact)
    if placement.rerun:
        rerun((*vision.encoder.layers, *text.encoder.layer))
    return ImageReward(vision, text, head, bert_tokens("imagereward", vocabulary, LENGTH), placement)


def vision_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower's weights under transformers' names."""
    renamed = {}
    for name, tensor in part(tensors, "blip.visual_encoder.").items():
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        renamed[f"post_layer{name}" if name.startswith("norm.") else name] = tensor
    return renamed


IMAGEREWARD = Published(
    name="imagereward",
    measures="how experts rate a picture for a prompt: fit, quality, harm",
    range="about -2 to 2",
    files=(
        WeightsFile("THUDM/ImageReward", "ImageReward.pt", 1_790_000_000, "Apache-2.0"),
        WeightsFile(
            repository="google-bert/bert-base-uncased",
            name="vocab.txt",
            size=231_508,
            licence="Apache-2.0",
            digest="sha256:07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        ),
    ),
    make=imagereward,
)
