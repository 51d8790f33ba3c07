"""ComfyUI's noise levels as the chain's.

ComfyUI's latents are x̂ + σ·ε for networks that predict ε or v (its `EPS` and what is made of it), and (1-σ)·x̂ + σ·ε for flow
(`CONST`). The chain has the first kind scaled to α² + σ² = 1. The denoiser is asked at ComfyUI's σ, which is the level's time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Schedule
from rlr_core.errors import CheckpointError, ConfigError

from .host import CONST, EPS, calculate_sigmas


def is_flow(model_sampling: Any) -> bool:
    """Whether it is a flow; else it is of the other kind. Raises `CheckpointError` for one that is neither."""
    if not isinstance(model_sampling, CONST | EPS):
        kinds = ", ".join(kind.__name__ for kind in type(model_sampling).__mro__[:-1])
        raise CheckpointError(f"a MODEL that samples by {kinds}", "ε, v or flow", "choose another model")
    return isinstance(model_sampling, CONST)


def schedule_of(model_sampling: Any, scheduler: str, steps: int, *, noisy: bool) -> Schedule:
    """The levels that KSampler visits with that scheduler. Raises `ConfigError` where there are not `steps` steps.

    Args:
        noisy: whether the steps add noise. Then the last one does, too: it ends at half the least level that the model was
            trained on, and not at 0, since a likelihood ratio of a step without noise is none. (diffusers' chains of Stable
            Diffusion end at that level itself.)
    """
    sigmas = calculate_sigmas(model_sampling, scheduler, steps).double().cpu()
    if len(sigmas) != steps + 1:
        raise ConfigError(
            f"sampling.steps = {steps} with ComfyUI's scheduler '{scheduler}', which makes {len(sigmas) - 1} of it",
            "a scheduler that makes as many as it is asked for",
            "choose another scheduler, such as normal, or another number of steps",
        )
    if noisy:
        sigmas[-1] = min(float(model_sampling.sigma_min), float(sigmas[-2])) / 2
    return Schedule(*_scales(sigmas, flow=is_flow(model_sampling)), sigmas)


def _scales(sigmas: Tensor, *, flow: bool) -> tuple[Tensor, Tensor]:
    """ComfyUI's σ (T+1,) → α and σ of the chain."""
    if flow:
        return 1 - sigmas, sigmas
    alphas = torch.rsqrt(1 + sigmas**2)
    return alphas, alphas * sigmas
