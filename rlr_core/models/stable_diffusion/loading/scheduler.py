"""The noise levels that a checkpoint was trained with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlr_core.errors import CheckpointError
from rlr_core.models.architecture import Request
from rlr_core.models.diffusers_folder import COPY_AGAIN

LEVELS = "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"
"""Settings that make the noise levels."""


def noise_scheduler(config: Mapping[str, Any], request: Request, path: Path) -> Any:
    """The schedule of a scheduler's config, walked as DDIM does, whatever sampler it recommends.

    Args:
        config: of any of diffusers' schedulers; what it leaves out of the levels is as in that scheduler.
        request: its prediction and zero terminal SNR replace those of the config, unless they are "auto".
        path: for errors.

    Raises `CheckpointError`.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    try:
        made = DDIMScheduler.from_config({**_own_levels(config), **config, **_chosen(request)})
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be loaded: {error}", "a scheduler of diffusers", COPY_AGAIN
        ) from error
    _refuse_impossible(made, path)
    return made


def _own_levels(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the config's scheduler has where the config says nothing: DDIM has other levels than LCM, TCD or Heun."""
    import diffusers

    kind = getattr(diffusers, str(config.get("_class_name")), None)
    known = inspect.signature(kind).parameters if kind else {}
    return {name: known[name].default for name in LEVELS if name in known}


def _chosen(request: Request) -> dict[str, Any]:
    chosen = {} if request.prediction == "auto" else {"prediction_type": request.prediction}
    if request.zero_snr == "no":
        return {**chosen, "rescale_betas_zero_snr": False}
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}  # which begins at the last level
    return {**chosen, **(zero if request.zero_snr == "yes" else {})}


def _refuse_impossible(made: Any, path: Path) -> None:
    """Raise `CheckpointError` for betas that are too few, and where a picture is looked for in noise alone by its noise."""
    told, levels = made.config.num_train_timesteps, len(made.alphas_cumprod)
    if told != levels:
        raise CheckpointError(
            f"{path} has {levels} trained_betas for {told} timesteps", "one for each timestep", COPY_AGAIN
        )
    visited = made.config.timestep_spacing != "leading"
    if visited and made.alphas_cumprod[-1] == 0 and made.config.prediction_type == "epsilon":
        raise CheckpointError(
            f"{path}: zero terminal SNR with a network that predicts the noise",
            "a network that predicts v",
            'set model.prediction = "v_prediction", or model.zero_snr = "no"',
        )
