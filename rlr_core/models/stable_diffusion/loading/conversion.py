"""Tensors in the original (LDM) layout → diffusers' and transformers' networks, with the configs that lie here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlr_core.errors import CheckpointError
from rlr_core.families import StableDiffusionFamily
from rlr_core.models.diffusers_folder import COPY_AGAIN
from rlr_core.models.stable_diffusion.loading.networks import class_of

State = Mapping[str, Tensor]


def unet_of(path: Path, state: State, family: StableDiffusionFamily, size: int, dtype: torch.dtype) -> Any:
    """A frozen `UNet2DConditionModel`; `size` is the side of its own pictures in pixels. Raises `CheckpointError`."""
    make = class_of("unet").from_single_file
    options = {**_options(family, "unet", dtype), "sample_size": size // 8}
    return _made(path, "unet", family, lambda: make(dict(state), **options))


def vae_of(path: Path, state: State, family: StableDiffusionFamily, dtype: torch.dtype) -> Any:
    """A frozen `AutoencoderKL`. Raises `CheckpointError`."""
    make = class_of("vae").from_single_file
    return _made(path, "vae", family, lambda: make(dict(state), **_options(family, "vae", dtype)))


def text_encoder_of(
    path: Path, state: State, family: StableDiffusionFamily, component: str, dtype: torch.dtype
) -> Any:
    """A frozen CLIP text model; `component` is "text_encoder" or "text_encoder_2". Raises `CheckpointError`."""
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm as make

    network, options = class_of(component), _options(family, component, dtype)
    return _made(path, component, family, lambda: make(network, dict(state), **options))


def _options(family: StableDiffusionFamily, component: str, dtype: torch.dtype) -> dict[str, Any]:
    """Of diffusers' converters: the config is our own folder's, and nothing is fetched."""
    place = {"config": str(family.configs), "subfolder": component}
    return {**place, "torch_dtype": dtype, "local_files_only": True}


def _made(path: Path, component: str, family: StableDiffusionFamily, make: Callable[[], Any]) -> Any:
    """What `make` gives, frozen. A tensor that is not there stays without data, which diffusers then trips over."""
    try:
        with _silent():
            network = make()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "meta tensor" in reason:  # what no tensor was found for
            reason = "it lacks tensors that the network needs, or has them under unknown names"
        raise CheckpointError(
            f"the {component} in {path} cannot be loaded: {reason}", f"that of {family.title}", COPY_AGAIN
        ) from error
    return network.requires_grad_(False).eval()


@contextmanager
def _silent():
    """diffusers warns of weights that the network has no use for."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
