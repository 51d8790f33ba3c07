"""The parts of a checkpoint in diffusers' folder layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlr_core.errors import CheckpointError
from rlr_core.models.describing import family_of_folder
from rlr_core.models.folder import COPY_AGAIN, inspect, read_json
from rlr_core.models.networks import load_network
from rlr_core.models.parts import Parts
from rlr_core.models.scheduler import noise_scheduler
from rlr_core.models.vae import load_vae


def load_folder(path: Path, dtype: torch.dtype, prediction: str, vae: Path | None) -> Parts:
    """Raises `CheckpointError`; see `load_model`."""
    family = family_of_folder(path)
    folder = inspect(path, vae=vae is None)
    encoders = [name for name in folder.variants if "text_encoder" in name]
    config = read_json(path / "scheduler" / "scheduler_config.json")
    return Parts(
        family=family,
        unet=load_network(path / "unet", "unet", folder.variants["unet"], dtype),
        vae=load_vae(vae or path / "vae", family, dtype),
        text_encoders=[load_network(path / name, name, folder.variants[name], dtype) for name in encoders],
        tokenizers=[tokenizer_of(path / name.replace("text_encoder", "tokenizer")) for name in encoders],
        pads=[None] * len(encoders),
        scheduler=noise_scheduler(config, prediction, path / "scheduler"),
        zero_negative=read_json(path / "model_index.json").get("force_zeros_for_empty_prompt", family.is_xl),
    )


def tokenizer_of(path: Path) -> Any:
    """The tokenizer in a folder. Raises `CheckpointError`."""
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be loaded: {error}", "a CLIP tokenizer", COPY_AGAIN) from error
