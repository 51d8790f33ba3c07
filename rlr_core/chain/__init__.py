"""The denoising chain x_0 (noise) → x_T (clean latent), for any model behind the `Denoiser` protocol.

Four nouns: a `Schedule` (α_i, σ_i and the model's timesteps), a `Denoiser` (x_i → x̂_i, ε̂_i), a `transition` (the
generalised DDIM step between two levels) and a `Chain` that binds them to one batch, and is walked in three ways.
Steps count in the order of generation, 0 … T-1. Nothing here does IO or knows a reward.
"""

from rlr_core.chain.chain import (
    Chain,
    ChainLike,
    advance,
    initial_latents,
    moved_on,
    predictions,
    propagate,
    rollout,
)
from rlr_core.chain.conditioning import Conditioning, PromptSchedule, Text
from rlr_core.chain.denoiser import Cost, Counted, Denoiser, Guided, Prediction
from rlr_core.chain.divergence import Visit, divergence, finely, noisy, shift, step_probabilities, visit
from rlr_core.chain.noise import BatchNoise, Noise, SampleNoise
from rlr_core.chain.schedule import Level, Schedule, flow_matching, variance_exploding, variance_preserving
from rlr_core.chain.transition import Transition, transition

__all__ = [
    "BatchNoise", "Chain", "ChainLike", "Conditioning", "Cost", "Counted", "Denoiser", "Guided", "Level", "Noise",
    "Prediction", "PromptSchedule", "SampleNoise", "Schedule", "Text", "Transition", "Visit", "advance", "divergence",
    "finely", "flow_matching", "initial_latents", "moved_on", "noisy", "predictions", "propagate", "rollout", "shift",
    "step_probabilities", "transition", "variance_exploding", "variance_preserving", "visit",
]  # fmt: skip
