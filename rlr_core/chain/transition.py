"""The transition between two levels: generalised DDIM, one formula for every model family.

    s_i     = η·σ_{i+1}·sqrt(1 − α_i²σ_{i+1}² / (α_{i+1}²σ_i²))
    m_i     = α_{i+1}·x̂_i + sqrt(σ_{i+1}² − s_i²)·ε̂_i
    x_{i+1} = m_i + s_i·z_i,   z_i ~ N(0, I)

For α² + σ² = 1 this is DDIM (arXiv 2010.02502, eq. 12); on a flow path a stochastic sampler with the ODE's marginals.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from rlr_core.chain.denoiser import Prediction, expand
from rlr_core.chain.schedule import Level, noise_scale


class Transition(NamedTuple):
    """p(x_{i+1} | x_i) = N(mean, scale²·I): the mean (B, …), differentiable in θ, and the scale (B,) float64."""

    mean: Tensor
    scale: Tensor


def transition(prediction: Prediction, level: Level, following: Level, eta: float) -> Transition:
    """The step from `level` to `following`, each sample at its own."""
    scale = noise_scale(level, following, eta)
    direction = (following.sigma**2 - scale**2).clamp(min=0).sqrt()
    x_hat, noise = prediction
    return Transition(expand(following.alpha, x_hat) * x_hat + expand(direction, noise) * noise, scale)
