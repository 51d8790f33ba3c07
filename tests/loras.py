"""Every layer that a LoRA may be for, of full-size checkpoints of each family, and random LoRAs for them."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import torch

from rlr_core.families import FAMILIES as KNOWN
from rlr_core.families import Component, Place, Role
from rlr_core.families.stable_diffusion.stems import TEXT, TEXT_2, UNET
from rlr_core.lora.targets import loadable_layers
from rlr_core.lora.weights import LayerWeights, LoraWeights

FAMILIES = "sd1", "sd2", "sdxl"
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
"""What diffusers' `UNet2DConditionModel` is told; the rest is its default."""
TEXTS = {"clip_l": (768, 12, 12), "clip_h": (1024, 23, 16), "clip_g": (1280, 32, 20)}
"""Hidden size, layers, heads."""
ENCODERS = {"sd1": {TEXT: "clip_l"}, "sd2": {TEXT: "clip_h"}, "sdxl": {TEXT: "clip_l", TEXT_2: "clip_g"}}
NOT_TRAINED = ("conv_in", "conv_out", "time_embedding", "add_embedding", "text_projection")
"""Layers that no choice of targets includes."""


@functools.cache
def shapes(family: str) -> dict[Place, tuple[int, ...]]:
    """Layer → shape of its weight, of the layers that can be trained."""
    layers = loadable_layers(components(full_size(family)), KNOWN[family].lora)
    return {
        place: tuple(layer.module.weight.shape)
        for place, layer in layers.items()
        if not place.path.startswith(NOT_TRAINED)
    }


def components(networks: dict[str, Any]) -> list[Component]:
    """A UNet and text encoders by name, as a model has them."""
    roles = {UNET: Role.DENOISER, TEXT: Role.TEXT_ENCODER, TEXT_2: Role.TEXT_ENCODER}
    return [Component(name, roles[name], network) for name, network in networks.items()]


def adaptable(networks: dict[str, Any], family: str) -> SimpleNamespace:
    """What a LoRA can be put into."""
    return SimpleNamespace(components=components(networks), lora_family=KNOWN[family].lora)


@functools.cache
def full_size(family: str) -> dict[str, Any]:
    """The networks, without memory."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        networks: dict[str, Any] = {UNET: UNet2DConditionModel(**UNETS[family])}
        for network, name in ENCODERS[family].items():
            width, layers, heads = TEXTS[name]
            config = CLIPTextConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
            )
            kind = CLIPTextModelWithProjection if network == TEXT_2 else CLIPTextModel
            networks[network] = kind(config)
    return networks


def random_layer(
    shape: tuple[int, ...], rank: int, alpha: float, generator: torch.Generator, *, dora: bool = False
) -> LayerWeights:
    """For a layer whose weight has `shape`."""
    down = torch.randn(rank, *shape[1:], generator=generator)
    up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator)
    norms = torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator) if dora else None
    return LayerWeights(down, up, alpha, norms)


def random_lora(family: str, seed: int, *, count: int, dora: bool = False) -> LoraWeights:
    """A random choice of layers, each with its own rank and alpha."""
    generator = torch.Generator().manual_seed(seed)
    places = list(shapes(family).items())
    chosen = torch.randperm(len(places), generator=generator)[:count].sort().values
    weights = {}
    for place, shape in (places[number] for number in chosen):
        rank = int(torch.randint(1, 9, (), generator=generator))
        alpha = float(torch.rand((), generator=generator) * 20)
        weights[place] = random_layer(shape, rank, alpha, generator, dora=dora)
    return weights
