"""The parts of a checkpoint without weights: shapes and types on torch's `meta` device, for planning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from rlr_core.families import FAMILIES, StableDiffusionFamily
from rlr_core.models.architecture import Request
from rlr_core.models.diffusers_folder import read_json
from rlr_core.models.stable_diffusion.detection.of_file import family_of_file
from rlr_core.models.stable_diffusion.detection.of_folder import family_of_folder
from rlr_core.models.stable_diffusion.loading.clip_tokenizer import clip_tokenizer
from rlr_core.models.stable_diffusion.loading.folder import tokenizer_of
from rlr_core.models.stable_diffusion.loading.networks import class_of
from rlr_core.models.stable_diffusion.loading.parts import Parts
from rlr_core.models.stable_diffusion.loading.scheduler import noise_scheduler
from rlr_core.models.tensor_files import open_tensors


def blank_parts(path: Path, request: Request) -> Parts:
    """The parts that loading would give, the VAE being the family's or the folder's own.

    Args:
        path: a checkpoint, or the folder of a family's configs.
        request: how it would be loaded.

    Raises:
        CheckpointError: the checkpoint is of no family that can be trained on.
    """
    family, configs, own = _family(path, request)
    dtype, encoders = (
        request.dtype,
        [name for name in ("text_encoder", "text_encoder_2") if (configs / name).is_dir()],
    )
    return Parts(
        family=family,
        unet=_network(configs, "unet", dtype),
        vae=_network(configs, "vae", torch.float32 if family.is_xl and dtype == torch.float16 else dtype),
        text_encoders=[_network(configs, name, dtype) for name in encoders],
        tokenizers=[
            tokenizer_of(path / name.replace("text_encoder", "tokenizer")) if own else clip_tokenizer()
            for name in encoders
        ],
        pads=[None if own else family.parts[name].pad for name in encoders],
        scheduler=noise_scheduler(
            read_json(configs / "scheduler" / "scheduler_config.json"), request.prediction, configs
        ),
        zero_negative=family.is_xl,
    )


def _family(path: Path, request: Request) -> tuple[StableDiffusionFamily, Path, bool]:
    """The family, where its configs are, and whether they are the checkpoint's own."""
    for family in FAMILIES.values():
        if path == family.configs:
            return family, path, False
    if os.path.isfile(path):
        family = family_of_file(path, open_tensors(path, allow_pickle=request.allow_pickle).header)
        return family, family.configs, False
    return family_of_folder(path), path, True


def _network(configs: Path, component: str, dtype: torch.dtype) -> Any:
    kind, folder = class_of(component), configs / component
    with torch.device("meta"):
        if "text" in component:
            network = kind(kind.config_class.from_pretrained(str(folder), local_files_only=True))
        else:
            network = kind.from_config(read_json(folder / "config.json"))
    return torch.nn.Module.to(network, dtype).requires_grad_(False).eval()
