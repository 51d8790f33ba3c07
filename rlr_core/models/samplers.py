"""Samplers of diffusers for finished pictures: DDIM, Euler, Euler ancestral, DPM++ 2M; walked with our denoiser.

Training needs the chain's transition densities (`rlr_core.chain`); pictures may come from any sampler. These keep their latents
in the coordinates of k-diffusion (α = 1) or of the chain (α² + σ² = 1); the scheduler itself scales between the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Conditioning, Denoiser, Schedule
from rlr_core.chain.noise import derive_seed
from rlr_core.errors import ConfigError

SAMPLERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
}
"""`inference.sampler` → diffusers' class."""


def diffusers_sampler(name: str, config: Mapping[str, Any], steps: int) -> DiffusersSampler:
    """The sampler `name` over the noise schedule of a scheduler's `config`, set to `steps`. Raises `ConfigError`.

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
    return DiffusersSampler(made, steps, _schedule(made))


def _schedule(scheduler: Any) -> Schedule:
    """What the network is shown; k-diffusion's samplers have their own, finer table of σ/α."""
    levels = [_level(scheduler, time) for time in scheduler.timesteps]
    alpha, sigma = (
        torch.stack([*values, torch.tensor(end, dtype=torch.float64)])
        for values, end in zip(zip(*levels, strict=True), (1.0, 0.0), strict=True)
    )
    times = scheduler.timesteps
    return Schedule(alpha, sigma, torch.cat([times, times.new_zeros(1)]))


def _level(scheduler: Any, time: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ at a timestep, float64."""
    if hasattr(scheduler, "sigmas"):
        ratio = scheduler.sigmas[scheduler.index_for_timestep(time)].double()
        alpha = (1 + ratio**2).rsqrt()
        return alpha, ratio * alpha
    cumulative = scheduler.alphas_cumprod[int(time)].double()
    return cumulative.sqrt(), (1 - cumulative).sqrt()


@dataclass(frozen=True)
class DiffusersSampler:
    """A scheduler of diffusers, whose timesteps are set; see `Sampler`."""

    scheduler: Any
    steps: int
    schedule: Schedule

    @torch.no_grad()
    def __call__(
        self, denoiser: Denoiser, conditioning: Conditioning, noise: Tensor, seeds: Sequence[int]
    ) -> Tensor:
        """From `noise` (B, C, h, w), standard normal, to the finished latents (B, C, h, w).

        Args:
            conditioning: of all steps of `schedule`.
            seeds: B of them, for the noise that ancestral steps add.
        """
        sampler, schedule, samples = self._afresh(), self.schedule, torch.arange(len(noise))
        generators = [torch.Generator().manual_seed(derive_seed(seed, "sampler")) for seed in seeds]
        random = (
            {"generator": generators} if "generator" in inspect.signature(sampler.step).parameters else {}
        )
        x = noise * sampler.init_noise_sigma
        for i, time in enumerate(sampler.timesteps):
            step = torch.full_like(samples, i)
            scaled = sampler.scale_model_input(x, time).to(noise.dtype)
            prediction = denoiser(scaled, schedule.level(step), conditioning.at(step, samples))
            x = sampler.step(prediction.noise, time, x, **random).prev_sample
        return x.to(noise.dtype)

    def _afresh(self) -> Any:
        """The scheduler as if nothing had been painted: some remember earlier steps."""
        self.scheduler.set_timesteps(self.steps)
        return self.scheduler
