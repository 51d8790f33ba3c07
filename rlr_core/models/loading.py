"""From a checkpoint's name to a frozen model; nothing is ever looked up on a network."""

from __future__ import annotations

from pathlib import Path

import torch

from rlr_core.config import ModelConfig
from rlr_core.embedded import CHECKPOINT
from rlr_core.errors import CheckpointError
from rlr_core.models.blank import blank_parts
from rlr_core.models.folder_loading import load_folder
from rlr_core.models.model import Model
from rlr_core.models.parts import assembled
from rlr_core.models.single_file import load_single_file


def load_configured(settings: ModelConfig, device: str | torch.device) -> Model:
    """The model that a config asks for; see `load_model`."""
    return load_model(
        settings.checkpoint,
        device=device,
        dtype=getattr(torch, settings.precision),
        prediction=settings.prediction,
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
    vae: str = "",
    clip_skip: int = 0,
    allow_pickle: bool = False,
) -> Model:
    """Load a checkpoint, frozen and in eval mode.

    Args:
        checkpoint: "embedded", a folder in diffusers' layout, or a single file in the original layout.
        device: where the weights go. On "meta" networks have their shapes only, and no weights are read.
        dtype: of the weights; latents, log-probabilities and pictures stay float32.
        prediction: what the UNet predicts, "epsilon" or "v_prediction"; "auto" is what the checkpoint says.
        vae: a file or folder with another VAE than the checkpoint's own.
        clip_skip: the layer of the text encoder that is used, counted from the end; 0 is the checkpoint's own.
        allow_pickle: whether a pickled file (.ckpt) may be read, weights only.

    Raises:
        CheckpointError: whatever is missing, damaged or of another kind, naming the file.
        ConfigError: a layer that the text encoder does not have.
    """
    path = CHECKPOINT if checkpoint == "embedded" else Path(checkpoint).expanduser()
    name = checkpoint if checkpoint == "embedded" else path.resolve().name
    _require_libraries()
    separate = Path(vae).expanduser() if vae else None
    if torch.device(device).type == "meta" and path.exists():
        parts = blank_parts(path, dtype, prediction)
    elif path.is_dir():
        parts = load_folder(path, dtype, prediction, separate)
    elif path.is_file():
        parts = load_single_file(path, dtype, prediction, separate, allow_pickle=allow_pickle)
    else:
        raise CheckpointError(
            f"there is no checkpoint at {path}",
            '"embedded", or a file or folder on this machine (names on the Hugging Face Hub are not looked up)',
            "check model.checkpoint for a typing error",
        )
    return assembled(parts, name, torch.device(device), clip_skip)


def _require_libraries() -> None:
    try:
        import diffusers  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise CheckpointError(
            f"{error.name} is not installed", "diffusers and transformers", "pip install 'rlr[sd]'"
        ) from None
