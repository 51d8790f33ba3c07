"""The parts of a checkpoint in diffusers' folder layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlr_core.errors import CheckpointError
from rlr_core.models.architecture import Request
from rlr_core.models.diffusers_folder import COPY_AGAIN, read_json
from rlr_core.models.stable_diffusion.detection.of_folder import family_of_folder, inspect
from rlr_core.models.stable_diffusion.loading.networks import load_network
from rlr_core.models.stable_diffusion.loading.parts import Parts
from rlr_core.models.stable_diffusion.loading.scheduler import noise_scheduler
from rlr_core.models.stable_diffusion.loading.unused import say_unused
from rlr_core.models.stable_diffusion.loading.vae import load_vae
from rlr_core.safetensors_header import shown

SHORTEST = 3
"""Tokens of a prompt: its start, its end and a word."""


def folder_parts(path: Path, request: Request) -> Parts:
    """Raises `CheckpointError`; see `load_model`."""
    family, dtype, pickle = family_of_folder(path), request.dtype, request.allow_pickle
    folder = inspect(path, vae=request.vae is None, allow_pickle=pickle)
    say_unused(path, ("unet", "scheduler", *(() if request.vae else ("vae",))))
    encoders = [name for name in folder.weights if "text_encoder" in name]
    config = read_json(path / "scheduler" / "scheduler_config.json")
    networks = [load_network(path / name, name, folder.weights[name], dtype) for name in encoders]
    tokenizers = [tokenizer_of(path / name.replace("text_encoder", "tokenizer")) for name in encoders]
    for tokenizer, network in zip(tokenizers, networks, strict=True):
        _refuse_unknown_tokens(tokenizer, network, path)
    return Parts(
        family=family,
        unet=load_network(path / "unet", "unet", folder.weights["unet"], dtype),
        vae=load_vae(request.vae or path / "vae", family, dtype, allow_pickle=pickle),
        text_encoders=networks,
        tokenizers=tokenizers,
        pads=[None] * len(encoders),
        scheduler=noise_scheduler(config, request, path / "scheduler"),
        zero_negative=read_json(path / "model_index.json").get("force_zeros_for_empty_prompt", family.is_xl),
    )


def tokenizer_of(path: Path) -> Any:
    """The tokenizer in a folder. Raises `CheckpointError`."""
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be loaded: {error}", "a CLIP tokenizer", COPY_AGAIN) from error
    most = tokenizer.model_max_length
    if not isinstance(most, int) or most < SHORTEST:
        got = f"{path} says model_max_length = {shown(most)}"
        raise CheckpointError(got, f"a whole number from {SHORTEST} on", COPY_AGAIN)
    return tokenizer


def _refuse_unknown_tokens(tokenizer: Any, network: Any, path: Path) -> None:
    """A token beyond the text encoder's table would be found out by the first prompt that has it."""
    largest, known = max(tokenizer.get_vocab().values(), default=0), network.config.vocab_size
    if largest >= known:
        raise CheckpointError(
            f"{path} has a token of the number {largest}",
            f"the text encoder's {known}, counted from 0",
            COPY_AGAIN,
        )
