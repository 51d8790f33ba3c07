"""From a checkpoint's name to a frozen model; nothing is ever looked up on a network."""

from __future__ import annotations

import os

import torch

from rlr_core.config import ModelConfig
from rlr_core.embedded import CHECKPOINT
from rlr_core.errors import CheckpointError, ConfigError
from rlr_core.models.architecture import SETTINGS, Architecture, Request
from rlr_core.models.architectures import architecture_of_file, architecture_of_folder
from rlr_core.models.model import Model
from rlr_core.models.tensor_files import open_tensors
from rlr_core.storage import user_path


def load_configured(settings: ModelConfig, device: str | torch.device) -> Model:
    """The model that a config asks for; see `load_model`."""
    return load_model(
        settings.checkpoint,
        device=device,
        dtype=getattr(torch, settings.precision),
        prediction=settings.prediction,
        zero_snr=settings.zero_snr,
        vae=settings.vae,
        clip_skip=settings.clip_skip,
        allow_pickle=settings.allow_pickle,
    )


def load_model(
    checkpoint: str,
    *,
    device: str | torch.device,
    dtype: torch.dtype,
    prediction: str = "auto",
    zero_snr: str = "auto",
    vae: str = "",
    clip_skip: int = 0,
    allow_pickle: bool = False,
) -> Model:
    """Load a checkpoint, frozen and in eval mode.

    Args:
        checkpoint: "embedded", a folder in diffusers' layout, or a single file.
        device: where the weights go. On "meta" networks have their shapes only, and no weights are read.
        dtype: of the weights; latents, log-probabilities and pictures stay float32.
        prediction: what the denoiser predicts, "epsilon" or "v_prediction"; "auto" is what the checkpoint says.
        zero_snr: whether the last noise level is nothing but noise, "yes" or "no"; "auto" is what the checkpoint says.
        vae: a file or folder with another VAE than the checkpoint's own.
        clip_skip: the layer of the text encoder that is used, counted from the end; 0 is the checkpoint's own.
        allow_pickle: whether pickled files (.ckpt, .bin) may be read, weights only.

    Raises:
        CheckpointError: whatever is missing, damaged or of another kind, naming the file.
        ConfigError: a setting that such a checkpoint does not take, or a layer that its text encoder does not have.
    """
    path = CHECKPOINT if checkpoint == "embedded" else user_path(checkpoint)
    if not os.path.isdir(path) and not os.path.isfile(path):
        raise CheckpointError(
            f"there is no checkpoint at {path}",
            '"embedded", or a file or folder on this machine (names on the Hugging Face Hub are not looked up)',
            "check model.checkpoint for a typing error",
        )
    request = Request(
        name=checkpoint if checkpoint == "embedded" else path.resolve().name,
        device=torch.device(device),
        dtype=dtype,
        prediction=prediction,
        zero_snr=zero_snr,
        vae=user_path(vae) if vae else None,
        clip_skip=clip_skip,
        allow_pickle=allow_pickle,
    )
    if os.path.isdir(path):
        architecture, folders = architecture_of_folder(path)
        _refuse_untaken(architecture, request)
        return folders.load(path, request)
    tensors = open_tensors(path, allow_pickle=allow_pickle)
    architecture = architecture_of_file(path, tensors.header)
    _refuse_untaken(architecture, request)
    return architecture.load_file(path, tensors, request)


def _refuse_untaken(architecture: Architecture, request: Request) -> None:
    for setting, nothing in SETTINGS.items():
        given = getattr(request, setting)
        if given != nothing and setting not in architecture.settings:
            raise ConfigError(
                f"model.{setting} = {given} for {architecture.title}, which does not take it",
                f"settings of [model] that it takes: {', '.join(architecture.settings) or 'the common ones alone'}",
                f"leave model.{setting} at its default",
            )
