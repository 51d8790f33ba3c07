"""A model that nobody of the project knows: a flow-matching transformer, without a UNet, CLIP, or any class of diffusers.

It is all that a host has to bring: networks of its own, a `Model` around them, and the name of its LoRA family. Its latents
may be of any shape; of three dimensions besides the channels they are a video of few frames, which it decodes to pictures or to
a video.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlr_core.chain import Denoiser, Guided, Level, Prediction, Schedule, flow_matching
from rlr_core.config import RunConfig, Size, from_dict
from rlr_core.errors import ConfigError
from rlr_core.families import Component, GenericFamily, Role

CHANNELS, WIDTH, WORDS = 3, 16, 4
PIXELS = 4
"""Of a latent's side."""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("q", "k", "v", "out")})
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm1(tokens)
        q, k, v = (self.attention[name](x) for name in ("q", "k", "v"))
        tokens = tokens + self.attention["out"](functional.scaled_dot_product_attention(q, k, v))
        return tokens + self.mlp(self.norm2(tokens))


class Transformer(nn.Module):
    """Latents (B, C, …) of any rank, one token for each place, behind the tokens of the text."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.text = nn.Linear(CHANNELS, WIDTH), nn.Linear(WORDS, WIDTH)
        self.time = nn.Linear(2, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.out = nn.Linear(WIDTH, CHANNELS)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        places = x.flatten(2).transpose(1, 2)
        angles = math.pi * time.to(x)[:, None]
        tokens = self.embed(places) + self.time(torch.cat([angles.sin(), angles.cos()], 1))[:, None]
        tokens = torch.cat([self.text(text)[:, None], tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.out(tokens[:, 1:]).transpose(1, 2).reshape(x.shape)


@dataclass(frozen=True)
class FlowDenoiser:
    network: Transformer

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        words = conditioning["words"].to(x.device)
        return Prediction.from_flow(x, self.network(x, level.time / 1000, words), level)


class ForeignModel:
    """See `Model`.

    Args:
        frames: of a video; 0 for pictures.
        video: whether a video is decoded to one, or else to its middle frame.
    """

    name = "foreign"
    lora_family = GenericFamily(
        "foreign", "Foreign flow", "foreign-flow", targets={"attention": r".*\.attention\..*"}
    )
    device = torch.device("cpu")
    tokens = None
    samplers = ()
    savings = ()

    def __init__(self, frames: int = 0, *, video: bool = False):
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.network = Transformer().requires_grad_(False)
            self.colours = torch.randn(3, CHANNELS)
        self.frames, self.video = frames, video

    @property
    def components(self) -> list[Component]:
        return [Component("transformer", Role.DENOISER, self.network)]

    def schedule(self, steps: int, size: Size | None) -> Schedule:
        """Larger pictures need more noise, as in SD3 and FLUX."""
        width, height = size or (20, 12)
        shift = 1 + width * height / 1000
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return flow_matching(shift * times / (1 + (shift - 1) * times))

    def denoiser(self, guidance_scale: float) -> Denoiser:
        return Guided(FlowDenoiser(self.network), guidance_scale)

    def encode(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
        return encoded(prompts, negatives)

    def decode(self, latents: Tensor) -> Tensor:
        if self.frames and not self.video:
            latents = latents[:, :, self.frames // 2]
        colours = torch.einsum("bc...,kc->bk...", latents, self.colours)
        sides = (1,) * (latents.dim() - 4) + (PIXELS, PIXELS)
        for axis, factor in enumerate(sides, 2):
            colours = colours.repeat_interleave(factor, axis)
        return torch.sigmoid(colours)

    def latent_shape(self, size: Size | None) -> tuple[int, ...]:
        width, height = size or (20, 12)
        if width % PIXELS or height % PIXELS:
            raise ConfigError(f"sampling.size = {width} × {height}", f"multiples of {PIXELS}", "change it")
        return CHANNELS, *([self.frames] if self.frames else []), height // PIXELS, width // PIXELS

    def sampler(self, name: str, steps: int, size: Size | None) -> Any:
        raise AssertionError("it offers none")

    def saving(self, setting: str, value: Any) -> AbstractContextManager[None]:
        raise AssertionError("it offers none")

    def lora_metadata(self) -> dict[str, str]:
        return {"ss_sd_model_name": self.name}


def encoded(prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
    """Each text as `WORDS` numbers that depend on its letters."""
    return {
        "words": torch.stack([_words(prompt) for prompt in prompts]),
        "negative_words": torch.stack([_words(negative) for negative in negatives]),
    }


def _words(text: str) -> Tensor:
    digest = hashlib.sha256(text.encode()).digest()[:WORDS]
    return torch.tensor([byte / 128 - 1 for byte in digest])


def foreign_config(reward: str, **overrides: Any) -> RunConfig:
    """A run of some seconds; overrides as `training__iterations=3`."""
    values: dict[str, dict[str, Any]] = {
        "model": {"checkpoint": "foreign", "threads": 1},
        "prompts": {"train": ["a b", "c d", "e f"], "held_out": ["g h", "i j"]},
        "sampling": {"steps": 4, "guidance_scale": 2.0},
        "lora": {"rank": 2},
        "reward": {"name": reward, "held_out": "sharpness"},
        "training": {"iterations": 6, "prompts_per_batch": 2, "learning_rate": 0.02},
        "output": {
            "format": "comfyui", "preview_every": 2, "previews": 3, "evaluation": 4, "checkpoint_every": 2,
        },
    }  # fmt: skip
    for name, value in overrides.items():
        section, _, key = name.partition("__")
        values.setdefault(section, {})[key] = value
    return from_dict(values)
