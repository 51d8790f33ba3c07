"""A second architecture as a contributor would add it: single files alone, pixels for latents, rectified flow, no diffusers.

A LoRA family, a network, the model around it, and an `Architecture`; `registered` puts them beside the project's own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import foreign
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlr_core import families
from rlr_core.chain import Denoiser, Guided, Level, Prediction, Schedule, flow_matching
from rlr_core.config import Size
from rlr_core.errors import CheckpointError, ConfigError
from rlr_core.families import Component, LoraFamily, Place, Role
from rlr_core.models import architectures
from rlr_core.models.architecture import Architecture, Request
from rlr_core.models.description import Description
from rlr_core.models.tensor_files import TensorFile, incomplete, load_strictly, precision_of
from rlr_core.safetensors_header import Header

PREFIX = "pixflow."
SIDE, PATCH = 16, 2
STEMS = {"kohya": "lora_unet_", "comfyui": "diffusion_model."}
PATHS = [
    f"blocks.{k}.{layer}" for k in range(9) for layer in ("attn.to_qkv", "attn.to_out", "mlp.fc1", "mlp.fc2")
]
ATTENTION = r"blocks\.\d+\.attn\.(to_qkv|to_out)"


@dataclass(frozen=True)
class PixFlowLora(LoraFamily):
    """The names that its files have, and no other."""

    key: str = "pixflow"
    title: str = "PixFlow"
    card: str = "Unknown"
    formats: tuple[str, ...] = tuple(STEMS)
    targets: Mapping[str, str] = field(default_factory=lambda: {"attention": ATTENTION, "all": r"blocks\..*"})
    text_targets: str = ""
    tensors: Mapping[str, str] = field(default_factory=lambda: {"unet": PREFIX})

    def stem(self, place: Place, format: str) -> str:
        return STEMS[format] + (place.path.replace(".", "_") if format == "kohya" else place.path)

    def read(self, stem: str) -> tuple[str, Place] | None:
        places = [Place("unet", path) for path in PATHS]
        return next(((kind, p) for kind in STEMS for p in places if self.stem(p, kind) == stem), None)

    def place(self, network: str, role: Role, path: str) -> Place:
        return Place(network, path)

    def metadata(self, prediction: str | None) -> dict[str, str]:
        return {"ss_base_model_version": "pixflow_v1", "modelspec.architecture": "pixflow/lora"}


FAMILY = PixFlowLora()


class Attention(nn.Module):
    """One head: queries, keys and values of three dimensions."""

    def __init__(self, width: int):
        super().__init__()
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out(functional.scaled_dot_product_attention(*self.to_qkv(x).chunk(3, -1)))


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.silu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = Attention(width), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """(B, 3, 16, 16), times (B,) in [0, 1] and words (B, 4) → flow (B, 3, 16, 16)."""

    def __init__(self, width: int, blocks: int):
        super().__init__()
        inside = 3 * PATCH**2
        self.embed, self.words, self.time = (nn.Linear(n, width) for n in (inside, foreign.WORDS, 2))
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.out = nn.Linear(width, inside)

    def forward(self, x: Tensor, time: Tensor, words: Tensor) -> Tensor:
        patches = functional.pixel_unshuffle(x, PATCH)
        angles = math.pi * time[:, None]
        tokens = self.embed(patches.flatten(2).transpose(1, 2))
        tokens = tokens + (self.time(torch.cat([angles.sin(), angles.cos()], 1)) + self.words(words))[:, None]
        for block in self.blocks:
            tokens = block(tokens)
        return functional.pixel_shuffle(self.out(tokens).transpose(1, 2).reshape(patches.shape), PATCH)


@dataclass(frozen=True)
class FlowDenoiser:
    network: Transformer

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        own = self.network.out.weight
        time, words = level.time.to(own) / 1000, conditioning["words"].to(own)
        return Prediction.from_flow(x, self.network(x.to(own), time, words).to(x), level)


@dataclass(frozen=True)
class PixFlow:
    """See `Model`."""

    name: str
    network: Transformer
    lora_family = FAMILY
    tokens = None
    samplers = ()
    savings = ("offload",)

    @property
    def components(self) -> list[Component]:
        return [Component("unet", Role.DENOISER, self.network)]

    @property
    def device(self) -> torch.device:
        return self.network.out.weight.device

    def schedule(self, steps: int, size: Size | None = None) -> Schedule:
        return flow_matching(torch.linspace(1, 0, steps + 1, dtype=torch.float64))

    def denoiser(self, guidance_scale: float) -> Denoiser:
        return Guided(FlowDenoiser(self.network), guidance_scale)

    def encode(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
        return foreign.encoded(prompts, negatives)

    def decode(self, latents: Tensor) -> Tensor:
        return (latents.float() * 0.5 + 0.5).clamp(0, 1)

    def latent_shape(self, size: Size | None) -> tuple[int, ...]:
        if size not in (None, (SIDE, SIDE)):
            raise ConfigError(f"sampling.size = {size}", f"{SIDE} × {SIDE}", "change it")
        return 3, SIDE, SIDE

    def sampler(self, name: str, steps: int, size: Size | None = None) -> Any:
        raise AssertionError("it offers none")

    def saving(self, setting: str, value: Any) -> AbstractContextManager[None]:
        raise AssertionError("it offers none")

    def lora_metadata(self) -> dict[str, str]:
        return {"ss_sd_model_name": self.name, **FAMILY.metadata("flow")}


def describe(path: Path, tensors: TensorFile) -> Description:
    names = [name for name in tensors.header.tensors if name.startswith(PREFIX)]
    return Description(
        layout="file",
        family=FAMILY.title,
        size=SIDE,
        precision=precision_of(path, tensors.header, names),
        missing=incomplete(blank(path, tensors.header), tensors.header, PREFIX, "unet"),
    )


def load(path: Path, tensors: TensorFile, request: Request) -> PixFlow:
    network = blank(path, tensors.header)
    if not request.blank:
        load_strictly(network, path, tensors, PREFIX)
    return PixFlow(request.name, network.to(request.device, request.dtype).requires_grad_(False).eval())


def blank(path: Path, header: Header) -> Transformer:
    """With the sizes that the file has."""
    embed = header.tensors.get(PREFIX + "embed.weight")
    numbers = [re.match(r"pixflow\.blocks\.(\d)\.", name) for name in header.tensors]
    blocks = 1 + max((int(found[1]) for found in numbers if found), default=-1)
    if embed is None or len(embed.shape) != 2 or not blocks:
        raise CheckpointError(f"{path} is a damaged PixFlow", "embed.weight and blocks", "download it again")
    with torch.device("meta"):
        return Transformer(embed.shape[0], blocks)


ARCHITECTURE = Architecture(
    title="PixFlow",
    is_file=lambda header: any(name.startswith(PREFIX) for name in header.tensors),
    describe_file=describe,
    load_file=load,
)


def registered(patch: pytest.MonkeyPatch) -> None:
    """The two lines outside of its folders."""
    patch.setattr(families, "OTHER_FAMILIES", (*families.OTHER_FAMILIES, FAMILY))
    patch.setattr(architectures, "ARCHITECTURES", (*architectures.ARCHITECTURES, ARCHITECTURE))
