"""Noise schedules: the path x_i = α_i·x̂ + σ_i·ε of every model family, in the order of generation.

Variance preserving (SD 1/2/XL): α² + σ² = 1. Flow matching (SD3, FLUX, Wan): α = 1-t, σ = t. Variance exploding
(k-diffusion): α = 1. A `Schedule` holds T+1 levels, noisiest first; the last one is that of the finished latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Level(NamedTuple):
    """Noise levels of a batch of samples, each its own: α, σ and the model's timestep, all (B,)."""

    alpha: Tensor
    sigma: Tensor
    time: Tensor


@dataclass(frozen=True)
class Schedule:
    """The levels of a chain of T steps.

    Attributes:
        alpha: (T+1,) float64, signal scale of x_0 … x_T.
        sigma: (T+1,) float64, noise scale of x_0 … x_T.
        time: (T+1,) the model's own timestep at each level; the last is never shown to a model.
    """

    alpha: Tensor
    sigma: Tensor
    time: Tensor

    def __post_init__(self) -> None:
        assert self.alpha.shape == self.sigma.shape == self.time.shape and self.alpha.dim() == 1
        assert len(self.alpha) >= 2, "a chain has at least one step"

    @property
    def steps(self) -> int:
        """T, the number of steps."""
        return len(self.alpha) - 1

    @property
    def initial_scale(self) -> float:
        """√(α_0² + σ_0²), the standard deviation of x_0 for data of variance 1: 1 unless the path explodes or begins late."""
        scale = math.hypot(float(self.alpha[0]), float(self.sigma[0]))
        return 1.0 if math.isclose(scale, 1) else scale  # α² + σ² = 1 up to rounding, which is no scale

    def level(self, index: Tensor) -> Level:
        """Levels at `index` (B,), each 0 … T."""
        return Level(self.alpha[index], self.sigma[index], self.time[index])

    def scales(self, eta: float) -> Tensor:
        """s_0 … s_{T-1} (T,): the standard deviation of the noise that each step adds."""
        return noise_scale(
            self.level(torch.arange(self.steps)), self.level(torch.arange(1, self.steps + 1)), eta
        )


def noise_scale(level: Level, following: Level, eta: float) -> Tensor:
    """s_i = η·σ_{i+1}·sqrt(1 − α_i²σ_{i+1}² / (α_{i+1}²σ_i²)), (B,).

    η = 1 is ancestral sampling (DDPM), η = 0 the deterministic ODE; DDIM (arXiv 2010.02502, eq. 16) for α² + σ² = 1.
    """
    kept = (level.alpha * following.sigma / (following.alpha * level.sigma)) ** 2
    return eta * following.sigma * (1 - kept).clamp(min=0).sqrt()


def variance_preserving(alphas_cumprod: Tensor, timesteps: Tensor, final: float) -> Schedule:
    """DDPM-like models.

    Args:
        alphas_cumprod: (N,) products of 1-β over the model's N training timesteps.
        timesteps: (T,) integers, falling: the timesteps of the steps 0 … T-1.
        final: ᾱ of the finished latent (1, or `alphas_cumprod[0]` where `set_alpha_to_one` is off).
    """
    cumulative = torch.cat([alphas_cumprod.double()[timesteps], torch.tensor([final], dtype=torch.float64)])
    time = torch.cat([timesteps, timesteps.new_zeros(1)])
    return Schedule(cumulative.sqrt(), (1 - cumulative).sqrt(), time)


def flow_matching(times: Tensor, scale: float = 1000.0) -> Schedule:
    """Rectified-flow models: α = 1-t, σ = t.

    Args:
        times: (T+1,) falling from at most 1 to 0.
        scale: the model's timestep is `scale·t`.
    """
    times = times.double()
    return Schedule(1 - times, times, times * scale)


def variance_exploding(sigmas: Tensor) -> Schedule:
    """k-diffusion's convention (EDM, arXiv 2206.00364): α = 1; the model is shown σ. `sigmas`: (T+1,) falling to 0."""
    sigmas = sigmas.double()
    return Schedule(torch.ones_like(sigmas), sigmas, sigmas)
