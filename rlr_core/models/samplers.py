"""Samplers of diffusers for finished pictures: DDIM, Euler, Euler ancestral, DPM++ 2M; walked with our denoiser.

Training needs the chain's transition densities (`rlr_core.chain`); pictures may come from any sampler. These keep their latents
in the coordinates of k-diffusion (α = 1) or of the chain (α² + σ² = 1); the scheduler itself scales between the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Conditioning, Denoiser, Level
from rlr_core.chain.noise import derive_seed
from rlr_core.errors import ConfigError

SAMPLERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
}
"""`inference.sampler` → diffusers' class."""


def scheduler(name: str, config: Mapping[str, Any], steps: int) -> Any:
    """The sampler `name` over the noise schedule of `config`, set to `steps`. Raises `ConfigError`.

    It is told that the network predicts noise, which is what our denoisers give whatever theirs does.
    """
    import diffusers

    options = {"prediction_type": "epsilon", "clip_sample": False, "thresholding": False}
    made = getattr(diffusers, SAMPLERS[name]).from_config({**config, **options})
    try:
        made.set_timesteps(steps)
    except (ValueError, IndexError) as error:
        raise ConfigError(
            f"inference.steps = {steps} for the sampler '{name}' ({error})",
            "fewer steps, such as 20",
            "change it",
        ) from None
    return made


@torch.no_grad()
def walk(
    sampler: Any, denoiser: Denoiser, conditioning: Mapping[str, Tensor], noise: Tensor, seeds: Sequence[int]
) -> Tensor:
    """From `noise` (B, C, h, w), standard normal, to the finished latents (B, C, h, w).

    Args:
        sampler: of `scheduler`.
        conditioning: name → (B, …), for `denoiser`.
        seeds: B of them, for the noise that ancestral steps add.
    """
    generators = [torch.Generator().manual_seed(derive_seed(seed, "sampler")) for seed in seeds]
    random = {"generator": generators} if "generator" in inspect.signature(sampler.step).parameters else {}
    constant, samples = Conditioning.constant(conditioning, 1), torch.arange(len(noise))
    x = noise * sampler.init_noise_sigma
    for time in sampler.timesteps:
        level = _level(sampler, time, len(x))
        scaled = sampler.scale_model_input(x, time).to(noise.dtype)
        prediction = denoiser(scaled, level, constant.at(torch.zeros_like(samples), samples))
        x = sampler.step(prediction.noise, time, x, **random).prev_sample
    return x.to(noise.dtype)


def _level(sampler: Any, time: Tensor, count: int) -> Level:
    """α, σ and timestep that the network is shown; k-diffusion's samplers have their own, finer table of σ/α."""
    if hasattr(sampler, "sigmas"):
        ratio = sampler.sigmas[sampler.index_for_timestep(time)].double()
        alpha = (1 + ratio**2).rsqrt()
        sigma = ratio * alpha
    else:
        cumulative = sampler.alphas_cumprod[int(time)].double()
        alpha, sigma = cumulative.sqrt(), (1 - cumulative).sqrt()
    return Level(*(value.expand(count) for value in (alpha, sigma, time)))
