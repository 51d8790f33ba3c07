"""A small rectified-flow transformer as Stable Diffusion 3's (arXiv 2403.03206), on pixels: its training, and the model as the
core sees it.

The network is diffusers' `SD3Transformer2DModel`; each word of the world is a row of a table that is trained with it.
"""

# diffusers is annotated wrongly:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlr_core.bench.beds.drawn import SIZE, World
from rlr_core.bench.beds.judges import save_half
from rlr_core.bench.beds.pipeline import Average, Captioned, descend
from rlr_core.chain import Denoiser, Guided, Level, Prediction, Schedule, flow_matching
from rlr_core.config import Size
from rlr_core.embedded.train_checkpoint import count, optimise, progress
from rlr_core.errors import ConfigError
from rlr_core.families import Component, GenericFamily, Role

CONTEXT = 10
"""Words of a prompt; shorter ones are filled up with nothing."""
WORD_WIDTH, WIDTH = 48, 128
SHIFT = 3.0
"""How far the chain's times are moved towards noise (arXiv 2403.03206, 5.3.2)."""
WEIGHTS = "flow.safetensors"
FAMILY = GenericFamily(key="bed-flow", title="a bed's flow transformer", architecture="rlr-bed-flow")


class Painter(nn.Module):
    """The transformer and its words: what is trained together, and one file."""

    def __init__(self, world: World):
        super().__init__()
        from diffusers import SD3Transformer2DModel

        self.vocabulary = {word: number + 1 for number, word in enumerate(world.words)}
        self.words = nn.Embedding(len(self.vocabulary) + 1, WORD_WIDTH)  # the first is no word
        self.transformer = SD3Transformer2DModel(
            sample_size=SIZE,
            patch_size=4,
            in_channels=3,
            out_channels=3,
            num_layers=3,
            attention_head_dim=32,
            num_attention_heads=WIDTH // 32,
            joint_attention_dim=WORD_WIDTH,
            caption_projection_dim=WIDTH,
            pooled_projection_dim=WORD_WIDTH,
            pos_embed_max_size=SIZE // 4,
        )

    def read(self, texts: Sequence[str]) -> Tensor:
        """(B, CONTEXT, D); words that it does not know say nothing."""
        rows = [[self.vocabulary.get(word, 0) for word in text.lower().split()][:CONTEXT] for text in texts]
        numbers = torch.tensor([row + [0] * (CONTEXT - len(row)) for row in rows])
        return self.words(numbers.to(self.words.weight.device))

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        """Pixels (B, 3, 32, 32), times (B,) in [0, 1000] and words (B, CONTEXT, D) → flow (B, 3, 32, 32)."""
        return self.transformer(x, text, text.mean(1), time, return_dict=False)[0]


@dataclass(frozen=True)
class FlowDenoiser:
    """The transformer behind the denoiser protocol; it computes in its own dtype."""

    painter: Painter

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        """See `Denoiser`; conditioning: "text" (B, CONTEXT, D)."""
        own = self.painter.words.weight
        flow = self.painter(x.to(own), level.time.to(own), conditioning["text"].to(own))
        return Prediction.from_flow(x, flow.to(x.dtype), level)


@dataclass(frozen=True)
class FlowModel:
    """See `rlr_core.models.Model`."""

    name: str
    painter: Painter
    lora_family = FAMILY
    tokens = None
    samplers = ()
    savings = ()

    @property
    def components(self) -> list[Component]:
        """The transformer."""
        return [Component(FAMILY.network, Role.DENOISER, self.painter.transformer)]

    @property
    def device(self) -> torch.device:
        """Where the words are, and the transformer."""
        return self.painter.words.weight.device

    def schedule(self, steps: int, size: Size | None = None) -> Schedule:
        """Evenly apart, then shifted: t' = st / (1 + (s − 1)t)."""
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return flow_matching(SHIFT * times / (1 + (SHIFT - 1) * times))

    def denoiser(self, guidance_scale: float) -> Denoiser:
        """Guided."""
        return Guided(FlowDenoiser(self.painter), guidance_scale)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
        """ "text" and "negative_text", (B, CONTEXT, D)."""
        return {"text": self.painter.read(prompts), "negative_text": self.painter.read(negatives)}

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels are their own latents."""
        return (latents.float() * 0.5 + 0.5).clamp(0, 1)

    def latent_shape(self, size: Size | None) -> tuple[int, ...]:
        """(3, 32, 32). Raises `ConfigError` for another size."""
        if size not in (None, (SIZE, SIZE)):
            raise ConfigError(
                f"sampling.size = {size} on this bed", f"{SIZE} × {SIZE} pixels", "leave it out"
            )
        return 3, SIZE, SIZE

    def sampler(self, name: str, steps: int, size: Size | None = None) -> Any:
        """It offers none."""
        raise ConfigError(f"inference.sampler = {name} on this bed", '"chain"', "leave it out")

    def saving(self, setting: str, value: Any) -> AbstractContextManager[None]:
        """It offers none."""
        raise AssertionError(setting)

    def lora_metadata(self) -> dict[str, str]:
        """Of its family."""
        return {"ss_sd_model_name": self.name, **FAMILY.metadata("flow")}


@dataclass(frozen=True)
class FlowRecipe:
    """How it is made; see `rlr_core.bench.beds.pipeline.Recipe`."""

    seed: int
    pictures: int = 6_000
    steps: int = 2_600
    weak_steps: int = 400
    rate: float = 1e-3
    batch: int = 16


def train_flow(world: World, recipe: FlowRecipe, out: Path) -> None:
    """Train the transformer and its words, and save them as one file."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    scenes = [world.random_scene(rng) for _ in range(recipe.pictures)]
    pictures = torch.from_numpy(np.stack([world.draw(scene, rng) for scene in scenes]))
    painter, data = Painter(world), Captioned(world, pictures * 2 - 1, scenes)
    print(f"transformer {count(painter):,} parameters")
    for weak, steps, rate in (
        (False, recipe.steps, recipe.rate),
        (True, recipe.weak_steps, recipe.rate / 2),
    ):
        draw = data.drawing(recipe.seed + 3 + weak, weak=weak, batch=recipe.batch)
        average = Average(painter)
        optimizer, schedule = optimise(painter, rate, steps)
        for _, report in progress("weakness" if weak else "transformer", steps):
            chosen, captions = next(draw)
            loss = _loss(painter, chosen, painter.read(captions))
            descend(loss, painter, optimizer, schedule)
            average.update()
            report(loss.detach())
        average.settle()
    save_half(painter, out)


def _loss(painter: Painter, pictures: Tensor, text: Tensor) -> Tensor:
    """The mean squared error of ε − x̂ at times drawn evenly, then shifted as the chain's are."""
    t = torch.rand(len(pictures))
    t = SHIFT * t / (1 + (SHIFT - 1) * t)
    noise, share = torch.randn_like(pictures), t[:, None, None, None]
    flow = painter((1 - share) * pictures + share * noise, 1000 * t, text)
    return F.mse_loss(flow, noise - pictures)


def load_flow(name: str, world: World, file: Path, device: torch.device, dtype: torch.dtype) -> FlowModel:
    """Frozen, in evaluation mode. Raises `OSError`."""
    from safetensors.torch import load_file

    with torch.random.fork_rng(devices=[]):  # what a network draws for its first weights leaves no trace
        painter = Painter(world)
    painter.load_state_dict(load_file(file))
    return FlowModel(name, painter.eval().requires_grad_(False).to(device, dtype))
