"""Every layer that a LoRA may be for, of full-size checkpoints of each family, and random LoRAs for them."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import ldm
import torch

from rlr_core.families import FAMILIES as REGISTERED
from rlr_core.families import Component, Place, Role
from rlr_core.families.stable_diffusion.stems import TEXT, TEXT_2, UNET
from rlr_core.lora.targets import loadable_layers
from rlr_core.lora.weights import LayerWeights, LoraWeights

KNOWN = dict(REGISTERED)
"""The families as they are, also where tests put tiny ones in their place."""
FAMILIES = tuple(KNOWN)
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
    with torch.device("meta"):
        networks = ldm.networks(KNOWN[family])
    return {name: network for name, network in networks.items() if name in KNOWN[family].lora.widths}


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
