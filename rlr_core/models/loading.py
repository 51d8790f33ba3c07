"""From a checkpoint's name to a frozen model; nothing is ever looked up on a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rlr_core.embedded import CHECKPOINT
from rlr_core.errors import CheckpointError
from rlr_core.models.folder import COPY_AGAIN, CheckpointFolder, inspect, kind_of, read_json
from rlr_core.models.model import Model
from rlr_core.models.stable_diffusion import StableDiffusion


def load_model(checkpoint: str, *, device: str | torch.device, dtype: torch.dtype) -> Model:
    """Load a checkpoint, frozen and in eval mode.

    Args:
        checkpoint: "embedded", or a folder in diffusers' layout with safetensors weights.
        device: where the weights go.
        dtype: of the weights; latents, log-probabilities and pictures stay float32.

    Raises:
        CheckpointError: whatever is missing, damaged or of another kind, naming the file.
    """
    path = CHECKPOINT if checkpoint == "embedded" else Path(checkpoint).expanduser()
    name = checkpoint if checkpoint == "embedded" else path.resolve().name
    kind = kind_of(path)
    if kind not in FAMILIES:
        raise CheckpointError(
            f"{path} is a checkpoint for {kind}",
            f"{', '.join(FAMILIES)} (Stable Diffusion 1.x or 2.x)",
            "choose a Stable Diffusion checkpoint; other families are not supported yet",
        )
    return FAMILIES[kind](path, name, torch.device(device), dtype)


def _stable_diffusion(path: Path, name: str, device: torch.device, dtype: torch.dtype) -> Model:
    folder = inspect(path)
    _require_libraries()
    return StableDiffusion(
        name=name,
        unet=_network(folder, "unet", dtype).to(device),
        vae=_network(folder, "vae", dtype).to(device),
        text_encoder=_network(folder, "text_encoder", dtype).to(device),
        tokenizer=_tokenizer(folder),
        scheduler=_scheduler(folder),
    )


FAMILIES: dict[str, Callable[[Path, str, torch.device, torch.dtype], Model]] = {
    "StableDiffusionPipeline": _stable_diffusion
}
"""What `model_index.json` calls a checkpoint → what loads it from its folder."""


def _require_libraries() -> None:
    try:
        import diffusers  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise CheckpointError(
            f"{error.name} is not installed", "diffusers and transformers", "pip install 'rlr[sd]'"
        ) from None


def _class_of(component: str) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

    return {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}[component]


def _network(folder: CheckpointFolder, component: str, dtype: torch.dtype) -> Any:
    """One component, complete: a weight that the file lacks, or that has another shape, is an error."""
    path = folder.path / component
    options = {"local_files_only": True, "use_safetensors": True, "variant": folder.variants[component]}
    options["dtype" if component == "text_encoder" else "torch_dtype"] = dtype
    try:
        with _without_progress_bars():
            network, facts = _class_of(component).from_pretrained(
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
def _without_progress_bars() -> Iterator[None]:
    """transformers draws one for every file that it reads."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _tokenizer(folder: CheckpointFolder) -> Any:
    from transformers import CLIPTokenizer

    path = folder.path / "tokenizer"
    try:
        return CLIPTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be loaded: {error}", "a CLIP tokenizer", COPY_AGAIN) from error


def _scheduler(folder: CheckpointFolder) -> Any:
    """The checkpoint's noise schedule, walked as DDIM does, whatever sampler it recommends."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    path = folder.path / "scheduler"
    try:
        return DDIMScheduler.from_config(read_json(path / "scheduler_config.json"))
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be loaded: {error}", "a scheduler of diffusers", COPY_AGAIN
        ) from error
