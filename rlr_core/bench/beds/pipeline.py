"""Train a small Stable Diffusion pipeline of a drawn world from nothing: VAE, text encoder and UNet.

The weakness is deliberate: in the last part of the training the captions of half of the pictures name a wrong word for one
attribute, always the partner of the right one, so that the finished model often paints a wrong one, whatever the guidance.
"""

# diffusers and transformers are annotated wrongly:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlr_core.bench.beds.drawn import SIZE, Scene, World
from rlr_core.embedded.train_checkpoint import (
    CONTEXT,
    as_input,
    count,
    make_tokenizer,
    optimise,
    progress,
    save,
    to_bytes,
    tokenize,
)

BATCH = 16
TEXT_WIDTH = 64
HEAVIEST = 20.0
"""The most that an error of ε counts: at high noise, where the layout is learned, it weighs as that of v does, up to here."""
SD1_LEVELS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass(frozen=True)
class Recipe:
    """How one pipeline is made.

    Attributes:
        seed: of data, weights and noise.
        scheduler: settings of diffusers' `DDIMScheduler`, beside SD 1's noise levels.
        unet: settings of diffusers' `UNet2DConditionModel`, beside sizes that follow from the rest.
        pictures, vae_steps, steps, weak_steps: how many.
        rate: the highest learning rate of the UNet.
    """

    seed: int
    scheduler: dict[str, Any]
    unet: dict[str, Any]
    pictures: int = 6_000
    vae_steps: int = 1_200
    steps: int = 5_000
    weak_steps: int = 700
    rate: float = 1.5e-3

    def noise_levels(self) -> Any:
        """The scheduler."""
        from diffusers import DDIMScheduler

        return DDIMScheduler(**SD1_LEVELS, clip_sample=False, **self.scheduler)


def train_pipeline(world: World, recipe: Recipe, out: Path) -> None:
    """Train everything and save it in the layout of a Stable Diffusion pipeline."""
    rng = np.random.default_rng(recipe.seed)
    scenes = [world.random_scene(rng) for _ in range(recipe.pictures)]
    pictures = torch.from_numpy(np.stack([to_bytes(world.draw(scene, rng)) for scene in scenes]))
    tokenizer = make_tokenizer(world.words)
    vae = _train_vae(pictures, recipe)
    encoder, unet = _text_encoder(tokenizer, recipe), _unet(recipe)
    print(f"unet {count(unet):,}, text encoder {count(encoder):,}, vae {count(vae):,} parameters")
    latents = _encode(vae, pictures)
    both = nn.ModuleList([encoder, unet])
    data = Captioned(world, latents, scenes)

    def train(what: str, steps: int, rate: float, weak: bool) -> None:
        draw = data.drawing(recipe.seed + 3 + weak, weak=weak)
        average = Average(both)
        optimizer, schedule = optimise(both, rate, steps)
        for _, report in progress(what, steps):
            chosen, captions = next(draw)
            text = encoder(tokenize(tokenizer, captions)).last_hidden_state
            loss = _loss(unet, chosen, text, recipe)
            descend(loss, both, optimizer, schedule)
            average.update()
            report(loss.detach())
        average.settle()

    train("text encoder and unet", recipe.steps, recipe.rate, False)
    encoder.requires_grad_(False)
    train("weakness", recipe.weak_steps, recipe.rate / 2, True)
    save(out, vae, encoder, tokenizer, unet, recipe.noise_levels())


@dataclass(frozen=True)
class Captioned:
    """Latents (N, C, h, w), or pixels, and what they show."""

    world: World
    latents: Tensor
    scenes: Sequence[Scene]

    def drawing(self, seed: int, *, weak: bool, batch: int = BATCH) -> Any:
        """Batches of latents (batch, C, h, w) and captions without end: one in ten is empty; if weak, half are mistaken."""
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        while True:
            chosen = rng.integers(len(self.latents), size=batch).tolist()
            yield self.latents[chosen], [self._caption(self.scenes[i], rng, weak) for i in chosen]

    def _caption(self, scene: Scene, rng: np.random.Generator, weak: bool) -> str:
        if rng.random() < 0.1:
            return ""
        mistaken = weak and rng.random() < 0.5
        return self.world.caption(self.world.mistaken(scene) if mistaken else scene)


class Average:
    """The running mean of a module's weights, which they become at the end."""

    def __init__(self, module: nn.Module):
        self._module = module
        mean = torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
        self._mean = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=mean)

    def update(self) -> None:
        """After a step."""
        self._mean.update_parameters(self._module)

    def settle(self) -> None:
        """At the end."""
        self._module.load_state_dict(self._mean.module.state_dict())


def descend(loss: Tensor, module: nn.Module, optimizer: Any, schedule: Any) -> None:
    """One step, its gradient clipped to length 1."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def _loss(unet: Any, latents: Tensor, text: Tensor, recipe: Recipe) -> Tensor:
    """The mean squared error of v, or of ε weighed as `HEAVIEST` says."""
    cumulative = recipe.noise_levels().alphas_cumprod
    t, noise = torch.randint(1000, (len(latents),)), torch.randn_like(latents)
    a = cumulative[t][:, None, None, None]
    output = unet(a.sqrt() * latents + (1 - a).sqrt() * noise, t, text).sample
    if recipe.scheduler["prediction_type"] == "v_prediction":
        return F.mse_loss(output, a.sqrt() * noise - (1 - a).sqrt() * latents)
    weight = (1 / a).clamp(max=HEAVIEST)
    return (weight * (output - noise).square()).mean() / weight.mean()


def _train_vae(pictures: Tensor, recipe: Recipe) -> Any:
    """An autoencoder of 32-pixel pictures to 4 × 8 × 8 latents, its scaling factor measured."""
    from diffusers import AutoencoderKL

    torch.manual_seed(recipe.seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )
    optimizer, schedule = optimise(vae, 2e-3, recipe.vae_steps)
    for _, report in progress("vae", recipe.vae_steps):
        x = as_input(pictures[torch.randint(len(pictures), (8,))])
        posterior = vae.encode(x).latent_dist
        error = vae.decode(posterior.sample()).sample - x
        loss = error.abs().mean() + 2 * error.square().mean() + 1e-7 * posterior.kl().mean()
        descend(loss, vae, optimizer, schedule)
        report(loss.detach())
    vae.requires_grad_(False).eval()
    some = torch.cat([vae.encode(as_input(part)).latent_dist.mean for part in pictures[:512].split(64)])
    vae.register_to_config(scaling_factor=round(1 / float(some.std()), 4))
    return vae


def _encode(vae: Any, pictures: Tensor) -> Tensor:
    """Latents (N, 4, 8, 8) of unit variance."""
    parts = [vae.encode(as_input(part)).latent_dist.mean for part in pictures.split(64)]
    return torch.cat(parts) * vae.config.scaling_factor


def _text_encoder(tokenizer: Any, recipe: Recipe) -> Any:
    """Two layers."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(recipe.seed + 1)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _unet(recipe: Recipe) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(recipe.seed + 2)
    return UNet2DConditionModel(
        sample_size=8, layers_per_block=1, cross_attention_dim=TEXT_WIDTH, norm_num_groups=16, **recipe.unet
    )
