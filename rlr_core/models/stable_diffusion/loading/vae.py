"""A VAE: of a diffusers folder, or of a file, which may be a whole checkpoint."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlr_core.errors import CheckpointError
from rlr_core.families import StableDiffusionFamily
from rlr_core.models.diffusers_folder import find_weights, read_json
from rlr_core.models.stable_diffusion.detection.of_configs import check_config
from rlr_core.models.stable_diffusion.detection.of_folder import WEIGHTS
from rlr_core.models.stable_diffusion.loading.conversion import vae_of
from rlr_core.models.stable_diffusion.loading.networks import load_network
from rlr_core.models.tensor_files import open_tensors

EXPECTED = "a VAE: a safetensors file, or a folder with its config.json and weights"
PREFIXES = ("", "first_stage_model.", "vae.")
"""Of a VAE's tensors, in a file of its own and in others."""
TODAYS_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_ATTENTION = re.compile(
    r"((?:en|de)coder\.mid_block\.attentions\.\d+\.)(query|key|value|proj_attn|to_q|to_k|to_v|to_out\.0)(\.weight|\.bias)"
)
"""A layer of the attention in a file with diffusers' names."""


def load_vae(
    path: Path, family: StableDiffusionFamily, dtype: torch.dtype, *, allow_pickle: bool = False
) -> Any:
    """A frozen `AutoencoderKL` for a family's latents. Raises `CheckpointError`."""
    if os.path.isdir(path):
        folder = path / "vae" if (path / "vae").is_dir() else path
        return _of_folder(folder, family, dtype, allow_pickle)
    if os.path.isfile(path):
        return _of_file(path, family, dtype, allow_pickle)
    raise CheckpointError(f"there is no VAE at {path}", EXPECTED, "check model.vae for a typing error")


def _of_folder(path: Path, family: StableDiffusionFamily, dtype: torch.dtype, allow_pickle: bool) -> Any:
    config = check_config(path / "config.json", "vae/config.json")
    if config.get("_class_name") != "AutoencoderKL":
        raise CheckpointError(f"{path} is no VAE", EXPECTED, "check model.vae")
    dtype = _dtype(family, config.get("force_upcast", True), dtype)
    weights = find_weights(path, WEIGHTS["vae"], allow_pickle=allow_pickle)
    return load_network(path, "vae", weights, dtype)


def _of_file(path: Path, family: StableDiffusionFamily, dtype: torch.dtype, allow_pickle: bool) -> Any:
    tensors = open_tensors(path, allow_pickle=allow_pickle)
    names = tensors.header.tensors
    prefix = next((start for start in PREFIXES if start + "decoder.conv_in.weight" in names), None)
    if prefix is None:
        raise CheckpointError(f"{path} is no VAE", EXPECTED, "check model.vae")
    state = tensors.tensors(name for name in names if name.startswith(prefix))
    bare = dict(_with_todays_names(name[len(prefix) :], value) for name, value in state.items())
    config = read_json(family.configs / "vae" / "config.json")
    return vae_of(path, bare, family, _dtype(family, config["force_upcast"], dtype))


def _with_todays_names(name: str, value: Tensor) -> tuple[str, Tensor]:
    """diffusers called the attention's layers otherwise before 0.18, and some programs still write them as convolutions."""
    old = OLD_ATTENTION.fullmatch(name)
    if not old:
        return name, value
    linear = value[:, :, 0, 0] if value.dim() == 4 else value
    return f"{old[1]}{TODAYS_NAMES.get(old[2], old[2])}{old[3]}", linear


def _dtype(family: StableDiffusionFamily, force_upcast: bool, dtype: torch.dtype) -> torch.dtype:
    """XL's own VAE overflows in float16 (its config says `force_upcast`), and then computes in float32."""
    overflows = family.is_xl and force_upcast and dtype == torch.float16
    return torch.float32 if overflows else dtype
