"""The parts of a checkpoint without weights: shapes and types on torch's `meta` device, for planning."""

from __future__ import annotations

from collections.abc import Callable
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
from rlr_core.models.tensor_files import TensorFile


def blank_file(path: Path, tensors: TensorFile, request: Request) -> Parts:
    """The parts that loading a file would give, the VAE being the family's own. Raises `CheckpointError`."""
    family = family_of_file(path, tensors.header)
    return _of_configs(family, request)


def blank_folder(path: Path, request: Request) -> Parts:
    """The same of a folder, a whole one or that of a family's configs. Raises `CheckpointError`."""
    for family in FAMILIES.values():
        if path == family.configs:
            return _of_configs(family, request)
    return _blank(path, family_of_folder(path), request, lambda name: (tokenizer_of(path / name), None))


def _of_configs(family: StableDiffusionFamily, request: Request) -> Parts:
    pads = {name.replace("text_encoder", "tokenizer"): part.pad for name, part in family.parts.items()}
    return _blank(family.configs, family, request, lambda name: (clip_tokenizer(), pads[name]))


def _blank(
    configs: Path,
    family: StableDiffusionFamily,
    request: Request,
    tokenizer: Callable[[str], tuple[Any, int | None]],
) -> Parts:
    """`tokenizer` gives that of a name, as "tokenizer_2", and what fills up short texts."""
    dtype = request.dtype
    encoders = [name for name in ("text_encoder", "text_encoder_2") if (configs / name).is_dir()]
    tokenizers = [tokenizer(name.replace("text_encoder", "tokenizer")) for name in encoders]
    config = read_json(configs / "scheduler" / "scheduler_config.json")
    return Parts(
        family=family,
        unet=_network(configs, "unet", dtype),
        vae=_network(
            configs if (configs / "vae").is_dir() else family.configs,
            "vae",
            torch.float32 if family.is_xl and dtype == torch.float16 else dtype,
        ),
        text_encoders=[_network(configs, name, dtype) for name in encoders],
        tokenizers=[each for each, _ in tokenizers],
        pads=[pad for _, pad in tokenizers],
        scheduler=noise_scheduler(config, request, configs),
        zero_negative=family.is_xl,
    )


def _network(configs: Path, component: str, dtype: torch.dtype) -> Any:
    kind, folder = class_of(component), configs / component
    with torch.device("meta"):
        if "text" in component:
            network = kind(kind.config_class.from_pretrained(str(folder), local_files_only=True))
        else:
            network = kind.from_config(read_json(folder / "config.json"))
    return torch.nn.Module.to(network, dtype).requires_grad_(False).eval()
