"""What a diffusers folder holds, checked before any library reads it: errors name the file and the remedy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlr_core.errors import CheckpointError

EXPECTED = (
    "a safetensors file, or a folder in diffusers' Stable Diffusion layout: "
    "model_index.json, unet, vae, text_encoder, tokenizer, scheduler"
)
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
"""Component → stem of its weights file."""
SECOND = {"text_encoder_2": "model"}
"""What XL has beside."""
COPY_AGAIN = "download or copy the checkpoint again"


@dataclass(frozen=True)
class CheckpointFolder:
    """A folder that has been found whole.

    Attributes:
        path: the folder.
        variants: component → diffusers' `variant` of its weights ("fp16"), None for the plain file.
    """

    path: Path
    variants: dict[str, str | None]


def kind_of(checkpoint: Path) -> str:
    """What `model_index.json` calls the folder, as "StableDiffusionPipeline". Raises `CheckpointError`."""
    if not (checkpoint / "model_index.json").is_file():
        raise CheckpointError(
            f"{checkpoint} has no model_index.json", EXPECTED, "give the folder that holds that file"
        )
    return str(read_json(checkpoint / "model_index.json").get("_class_name"))


def inspect(checkpoint: Path, *, vae: bool = True) -> CheckpointFolder:
    """Check everything that can be checked without reading weights. Raises `CheckpointError`.

    Args:
        checkpoint: the folder.
        vae: whether it needs one.
    """
    weights = WEIGHTS | (SECOND if is_xl(checkpoint) else {})
    if not vae:
        del weights["vae"]
    tokenizers = [name.replace("text_encoder", "tokenizer") for name in weights if "text" in name]
    for name in (*weights, *tokenizers, "scheduler"):
        if not (checkpoint / name).is_dir():
            raise CheckpointError(f"{checkpoint} has no '{name}' folder", EXPECTED, COPY_AGAIN)
    for name in weights:
        read_json(checkpoint / name / "config.json")
    read_json(checkpoint / "scheduler" / "scheduler_config.json")
    for name in tokenizers:
        _check_tokenizer(checkpoint / name)
    _check_is_text_to_image(checkpoint)
    return CheckpointFolder(
        checkpoint, {name: find_weights(checkpoint / name, stem) for name, stem in weights.items()}
    )


def is_xl(checkpoint: Path) -> bool:
    """Whether a folder has two text encoders."""
    return "XL" in kind_of(checkpoint)


def _check_tokenizer(folder: Path) -> None:
    whole = (folder / "tokenizer.json").is_file()
    if not whole and not all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise CheckpointError(
            f"{folder} has no vocabulary", "vocab.json and merges.txt, or tokenizer.json", COPY_AGAIN
        )


def _check_is_text_to_image(checkpoint: Path) -> None:
    channels = read_json(checkpoint / "unet" / "config.json").get("in_channels", 4)
    latent = read_json(checkpoint / "unet" / "config.json").get("out_channels", 4)
    if channels != latent:
        kind = "an inpainting checkpoint" if channels == 2 * latent + 1 else "not a text-to-image checkpoint"
        raise CheckpointError(
            f"{checkpoint} is {kind}: its UNet takes {channels} channels",
            f"a text-to-image checkpoint, whose UNet takes the VAE's {latent} latent channels",
            "choose the text-to-image version of the checkpoint",
        )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a UTF-8 file. Raises `CheckpointError` naming the file."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror})", EXPECTED, COPY_AGAIN) from None
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}", "a JSON file", COPY_AGAIN) from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds a {type(values).__name__}", "a JSON object", COPY_AGAIN)
    return values


def find_weights(folder: Path, stem: str) -> str | None:
    """The variant of the weights to load. Raises `CheckpointError` if they are absent or damaged."""
    plain, half = folder / f"{stem}.safetensors", folder / f"{stem}.fp16.safetensors"
    if plain.is_file() or half.is_file():
        check_safetensors(plain if plain.is_file() else half)
        return None if plain.is_file() else "fp16"
    shards = sorted(folder.glob(f"{stem}-*.safetensors"))
    if (folder / f"{stem}.safetensors.index.json").is_file() and shards:
        for shard in shards:
            check_safetensors(shard)
        return None
    others = sorted(file.name for file in (*folder.glob("*.bin"), *folder.glob("*.ckpt")))
    if others:
        raise CheckpointError(
            f"{folder} has its weights only as {', '.join(others)}",
            f"{plain.name} (pickled files can run any code when they are read)",
            "download the safetensors version, or convert it with diffusers' save_pretrained(FOLDER)",
        )
    raise CheckpointError(f"{folder} has no weights", plain.name, COPY_AGAIN)


def check_safetensors(file: Path) -> None:
    """Read the header and compare it with the file's length. Raises `CheckpointError` naming the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            tensors.keys()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is damaged or incomplete ({error})", "a whole safetensors file", COPY_AGAIN
        ) from None
