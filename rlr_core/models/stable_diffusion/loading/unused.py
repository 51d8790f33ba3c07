"""What a folder's configs say and nothing here computes, told once when it is loaded."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

from rlr_core.models.diffusers_folder import read_json
from rlr_core.models.stable_diffusion.detection.of_configs import MEANINGS, SCHEDULERS
from rlr_core.models.stable_diffusion.loading.networks import class_of
from rlr_core.safetensors_header import shown

SPACING = "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"
"""Which of the noise levels a sampler visits: `inference.sampler` keeps to them, the chain has steps of its own."""
FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}


def say_unused(path: Path, parts: tuple[str, ...]) -> None:
    """Warn of settings of those of `FILES` that the folder's library does not know, and of those of its sampler alone."""
    configs = {part: read_json(path / FILES[part]) for part in parts}
    unknown = [
        f"{part}.{shown(name)}"
        for part, config in configs.items()
        for name in config
        if not name.startswith("_") and name not in _known(part)
    ]
    if unknown:
        warnings.warn(
            f"{path}: nothing is known of {', '.join(unknown)}: what it says is left out", stacklevel=2
        )
    spacing = [name for name in SPACING if configs["scheduler"].get(name) is True]
    if spacing:
        warnings.warn(
            f"{path} recommends a sampler with {', '.join(spacing)}, which the chain of training has not; "
            "pictures by `inference.sampler` have it",
            stacklevel=2,
        )


def _known(part: str) -> set[str]:
    import diffusers

    kinds = (
        [getattr(diffusers, name, None) for name in SCHEDULERS] if part == "scheduler" else [class_of(part)]
    )
    names = {name for kind in kinds if kind for name in inspect.signature(kind.__init__).parameters}
    return names | MEANINGS[FILES[part]].keys()
