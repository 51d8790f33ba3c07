"""Pictures from the chain, with a seed each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlr_core.chain import Chain, Conditioning, Denoiser, SampleNoise, rollout
from rlr_core.config import SamplingConfig
from rlr_core.estimators import RewardFunction
from rlr_core.models import Model


@torch.no_grad()
def generate(
    model: Model,
    sampling: SamplingConfig,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    negative: str = "",
    denoiser: Denoiser | None = None,
    chunk: int = 8,
) -> Tensor:
    """One picture for each (prompt, seed), (N, 3, H, W), range [0, 1], on the CPU; `chunk` of them at a time.

    Args:
        denoiser: instead of the model's own with classifier-free guidance.
    """
    denoiser = denoiser or model.denoiser(sampling.guidance_scale)
    schedule, shape = model.schedule(sampling.steps), model.latent_shape(sampling.size)
    pictures = []
    for first in range(0, len(prompts), chunk):
        mine = prompts[first : first + chunk]
        conditioning = Conditioning.constant(model.encode(mine, negative), schedule.steps)
        noise = SampleNoise(seeds[first : first + chunk], shape, torch.float32, model.device)
        chain = Chain(denoiser, schedule, conditioning, noise, sampling.eta)
        latents, _ = rollout(chain, noise.initial(), torch.arange(len(mine)), range(schedule.steps))
        pictures.append(model.decode(latents).cpu())
    return torch.cat(pictures)


@torch.no_grad()
def score(reward: RewardFunction, images: Tensor, prompts: Sequence[str], *, chunk: int = 16) -> Tensor:
    """Scores (N,) of pictures (N, 3, H, W), on the CPU; `chunk` of them at a time."""
    parts = [
        reward(images[first : first + chunk], list(prompts[first : first + chunk])).float().cpu()
        for first in range(0, len(prompts), chunk)
    ]
    return torch.cat(parts)
