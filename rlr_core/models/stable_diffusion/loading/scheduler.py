"""The noise levels that a checkpoint was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlr_core.errors import CheckpointError
from rlr_core.models.diffusers_folder import COPY_AGAIN


def noise_scheduler(config: Mapping[str, Any], prediction: str, path: Path) -> Any:
    """The schedule of a scheduler's config, walked as DDIM does, whatever sampler it recommends.

    Args:
        config: of any of diffusers' schedulers.
        prediction: "auto" leaves what the config says.
        path: for errors.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    chosen = {} if prediction == "auto" else {"prediction_type": prediction}
    try:
        return DDIMScheduler.from_config({**config, **chosen})
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be loaded: {error}", "a scheduler of diffusers", COPY_AGAIN
        ) from error
