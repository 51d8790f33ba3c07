"""One network out of its folder in diffusers' layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rlr_core.errors import CheckpointError
from rlr_core.models.diffusers_folder import COPY_AGAIN, WeightsFile


def class_of(component: str) -> Any:
    """The class of "unet", "vae", "text_encoder" or "text_encoder_2"."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    return {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }[component]


def load_network(path: Path, component: str, weights: WeightsFile, dtype: torch.dtype) -> Any:
    """One component out of its folder, frozen. A weight that the file lacks, or that has another shape, is an error.

    Args:
        path: the component's own folder.
        component: "unet", "vae", "text_encoder" or "text_encoder_2".
        weights: which of its files; pickled ones are read by torch's unpickler for nothing but weights.
        dtype: of the weights.
    """
    options = {"local_files_only": True, "use_safetensors": not weights.pickled, "variant": weights.variant}
    options["dtype" if "text" in component else "torch_dtype"] = dtype
    try:
        with without_progress_bars():
            network, facts = class_of(component).from_pretrained(
                str(path), output_loading_info=True, **options
            )
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be loaded: {error}", "weights that fit its config.json", COPY_AGAIN
        ) from error
    absent = sorted(facts["missing_keys"]) + sorted(str(key) for key in facts.get("mismatched_keys", ()))
    if absent:
        raise CheckpointError(
            f"the weights in {path} lack {len(absent)} of the network's tensors, such as {absent[0]}",
            "weights that fit its config.json",
            COPY_AGAIN,
        )
    return network.requires_grad_(False).eval()


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """transformers draws one for every file that it reads."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
