"""LoRA files: safetensors with kohya's keys, and metadata for hosts (sd-scripts, ModelSpec 1.0.1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlr_core.errors import CheckpointError
from rlr_core.lora.injection import ALPHA, DOWN, UP, InjectedLora, LayerSize
from rlr_core.lora.targets import PREFIX, kohya_name, loadable_layers
from rlr_core.storage import write_atomically


def save_lora(
    path: Path, lora: InjectedLora, metadata: Mapping[str, str], *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a LoRA for A1111, Forge, ComfyUI and diffusers; the file is whole or not there.

    Args:
        path: ends in .safetensors.
        lora: its weights are written in `dtype`.
        metadata: beside what is filled in here; what it says goes first.

    Raises:
        CheckpointError: the LoRA is not finite, or has no effect.
        StorageError: the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save

    state = {name: value.to(dtype).contiguous() for name, value in lora.state_dict().items()}
    _refuse_useless(state, path)
    facts = {**_standard_metadata(path, lora), **metadata}
    digest = _payload_hash(save(state))
    hashes = {"sshs_model_hash": digest, "modelspec.hash_sha256": "0x" + digest}
    data = save(state, metadata={**facts, **hashes})
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def load_lora(path: Path, unet: Any) -> InjectedLora:
    """Inject the LoRA of a file in kohya's format; rank, alpha and layers are the file's.

    Tensors for other parts than the UNet (text encoders) are an error, since they would be lost silently.
    Raises `CheckpointError`, naming the file, if it is missing, damaged, or does not fit.
    """
    path = Path(path)
    state = _read(path)
    lora = InjectedLora(unet, _match(state, unet, path))
    complete = {
        kohya_name(layer) + ALPHA: torch.tensor(size.alpha) for layer, size in lora.sizes.items()
    } | state
    try:
        lora.load_state_dict(complete)
    except CheckpointError as error:
        lora.eject()
        raise CheckpointError(
            f"{path} does not fit: {error}", "a LoRA for this checkpoint", "choose another file"
        ) from None
    return lora


def _refuse_useless(state: Mapping[str, Tensor], path: Path) -> None:
    broken = [name for name, value in state.items() if not value.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"the LoRA for {path} holds NaN or infinity in {len(broken)} tensors, such as {broken[0]}",
            "finite numbers",
            "go back to an earlier checkpoint, or lower training.learning_rate",
        )
    if not any(value.any() for name, value in state.items() if name.endswith(UP)):
        raise CheckpointError(
            f"the LoRA for {path} is 0 everywhere: it would have no effect",
            "a trained LoRA",
            "train for an iteration or more",
        )


def _standard_metadata(path: Path, lora: InjectedLora) -> dict[str, str]:
    """All values are texts. What only the checkpoint knows is guessed from its UNet."""
    second = lora.unet.config.cross_attention_dim == 1024
    convolutions = [
        lora.sizes[layer] for layer, down, _ in lora.layers() if down.dim() == 4 and down.shape[-1] > 1
    ]
    arguments = (
        {"conv_dim": str(convolutions[0].rank), "conv_alpha": f"{convolutions[0].alpha:g}"}
        if convolutions
        else {}
    )
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(lora.rank),
        "ss_network_alpha": f"{lora.alpha:g}",
        "ss_network_args": json.dumps(arguments),
        "ss_output_name": path.stem,
        "ss_base_model_version": "sd_v2" if second else "sd_v1",
        "ss_v2": str(second),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"stable-diffusion-{'v2-512' if second else 'v1'}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": path.stem,
    }


def _payload_hash(data: bytes) -> str:
    """SHA-256 of what follows the header, as A1111 computes it."""
    header = int.from_bytes(data[:8], "little")
    return hashlib.sha256(data[8 + header :]).hexdigest()


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    expected = "a LoRA as a whole safetensors file"
    if not path.is_file():
        raise CheckpointError(
            f"there is no LoRA file at {path}", expected, "check the path for a typing error"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged, incomplete or no safetensors file ({error})",
            expected,
            "copy or download it again",
        ) from None


def _match(state: Mapping[str, Tensor], unet: Any, path: Path) -> dict[str, LayerSize]:
    """Layer path → size, from a file's tensors. Raises `CheckpointError` counting what fits."""
    layers = {kohya_name(layer): layer for layer in loadable_layers(unet)}
    stems = {name: name[: -len(DOWN)] for name in state if name.endswith(DOWN)}
    sizes = {stem: _size(state, stem) for stem in stems.values() if stem in layers and stem + UP in state}
    known = {stem + suffix for stem in sizes for suffix in (DOWN, UP, ALPHA)}
    strange = sorted(state.keys() - known)
    if strange or not sizes:
        raise CheckpointError(
            f"{path}: {len(state) - len(strange)} of {len(state)} tensors fit this UNet"
            + (f", {len(strange)} do not, such as {strange[0]}" if strange else ""),
            f"kohya's keys for this UNet: {PREFIX}…{DOWN}, {UP}, {ALPHA}",
            "choose a LoRA that was made for this kind of checkpoint, without a text encoder part",
        )
    return {layer: sizes[stem] for stem, layer in layers.items() if stem in sizes}


def _size(state: Mapping[str, Tensor], stem: str) -> LayerSize:
    """Without an alpha, alpha is the rank (as in kohya)."""
    rank = state[stem + DOWN].shape[0]
    return LayerSize(rank, float(state[stem + ALPHA]) if stem + ALPHA in state else float(rank))
