"""Pictures from the chain, with a seed each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlr_core.chain import Chain, Conditioning, SampleNoise, rollout
from rlr_core.config import SamplingConfig
from rlr_core.estimators import Problem, RewardFunction
from rlr_core.models import StableDiffusion


@torch.no_grad()
def generate(
    model: StableDiffusion,
    problem: Problem,
    sampling: SamplingConfig,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    negative: str = "",
    chunk: int = 8,
) -> Tensor:
    """One picture for each (prompt, seed), (N, 3, H, W), range [0, 1], on the CPU; `chunk` of them at a time."""
    pictures = []
    for first in range(0, len(prompts), chunk):
        mine, numbers = list(prompts[first : first + chunk]), seeds[first : first + chunk]
        chain = bind(model, problem, sampling, mine, numbers, negative)
        samples = torch.arange(len(mine))
        latents, _ = rollout(chain, chain.noise.initial(), samples, range(problem.steps))
        pictures.append(problem.decode(latents).float().cpu())
    return torch.cat(pictures)


def bind(
    model: StableDiffusion,
    problem: Problem,
    sampling: SamplingConfig,
    prompts: Sequence[str],
    seeds: Sequence[int],
    negative: str,
) -> Chain:
    """The chain that paints `prompts` from `seeds`."""
    conditioning = Conditioning.constant(model.encode(prompts, negative), problem.steps)
    noise = SampleNoise(seeds, model.latent_shape(sampling.size), torch.float32, problem.parameters[0].device)
    return Chain(problem.denoiser, problem.schedule, conditioning, noise, problem.eta)


@torch.no_grad()
def score(reward: RewardFunction, images: Tensor, prompts: Sequence[str], *, chunk: int = 16) -> Tensor:
    """Scores (N,) of pictures (N, 3, H, W), on the CPU; `chunk` of them at a time."""
    parts = [
        reward(images[first : first + chunk], list(prompts[first : first + chunk])).float().cpu()
        for first in range(0, len(prompts), chunk)
    ]
    return torch.cat(parts)
