"""What a folder in diffusers' layout holds, checked before any library reads it: errors name the file and the remedy."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlr_core.errors import CheckpointError
from rlr_core.storage import read_text

LONGEST = 2**20
"""Bytes of a config; real ones have some thousands."""
LONGEST_INDEX = 4 * 2**20
"""Bytes of an index of shards, which has a line for each tensor."""
VARIANTS = None, "fp16", "bf16", "fp32", "ema", "non_ema"
"""In which diffusers' users keep weights, the plain ones first."""
EXPECTED = (
    "a safetensors file, or a folder in diffusers' layout, of Stable Diffusion: "
    "model_index.json, unet, vae, text_encoder, tokenizer, scheduler"
)
COPY_AGAIN = "download or copy the checkpoint again"


@dataclass(frozen=True)
class WeightsFile:
    """Where a component's weights are.

    Attributes:
        variant: diffusers' `variant` of the file (one of `VARIANTS`), None for the plain one.
        pickled: whether it is no safetensors file.
    """

    variant: str | None = None
    pickled: bool = False


def kind_of(checkpoint: Path) -> str:
    """What `model_index.json` calls the folder, as "StableDiffusionPipeline". Raises `CheckpointError`."""
    if not os.path.isfile(checkpoint / "model_index.json"):
        raise CheckpointError(
            f"{checkpoint} has no model_index.json", EXPECTED, "give the folder that holds that file"
        )
    return str(read_json(checkpoint / "model_index.json").get("_class_name"))


def read_json(file: Path, longest: int = LONGEST) -> dict[str, Any]:
    """A JSON object from a UTF-8 file. Raises `CheckpointError` naming the file."""
    try:
        values = json.loads(read_text(file, longest))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror})", EXPECTED, COPY_AGAIN) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON: {error}", "a JSON file", COPY_AGAIN) from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds a {type(values).__name__}", "a JSON object", COPY_AGAIN)
    return values


def find_weights(folder: Path, stem: str, *, allow_pickle: bool = False) -> WeightsFile:
    """The weights to load, safetensors first. Raises `CheckpointError` if they are absent, damaged, or pickled unasked."""
    for variant in VARIANTS:
        files = _safetensors(folder, stem, variant)
        for file in files:
            check_safetensors(file)
        if files:
            return WeightsFile(variant)
    return _pickled_weights(folder, f"{stem}.safetensors", allow_pickle)


def _safetensors(folder: Path, stem: str, variant: str | None) -> list[Path]:
    """The files of a variant: one, or the shards of which an index tells, as `save_pretrained` writes both.

    Raises `CheckpointError` for an index that cannot be read, or names a file that is not there.
    """
    middle = f".{variant}" if variant else ""
    whole, index = folder / f"{stem}{middle}.safetensors", folder / f"{stem}.safetensors.index{middle}.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return []
    told = read_json(index, LONGEST_INDEX).get("weight_map")
    names = (
        set(told.values())
        if isinstance(told, dict) and all(isinstance(v, str) for v in told.values())
        else set()
    )
    if not names or any(Path(name).name != name for name in names):
        raise CheckpointError(f"{index} names no files", "a weight_map of files beside it", COPY_AGAIN)
    for name in sorted(names):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} lacks {name}, of which {index.name} tells", "all of its files", COPY_AGAIN
            )
    return [folder / name for name in sorted(names)]


def _pickled_weights(folder: Path, wanted: str, allow_pickle: bool) -> WeightsFile:
    """diffusers calls its pickled weights as the safetensors ones, with .bin; transformers' are called pytorch_model."""
    names = {file.name for file in (*folder.glob("*.bin"), *folder.glob("*.ckpt"))}
    stems = wanted.removesuffix(".safetensors"), "pytorch_model"
    for variant, ending in ((None, ".bin"), ("fp16", ".fp16.bin")):
        if allow_pickle and any(stem + ending in names for stem in stems):
            return WeightsFile(variant, pickled=True)
    if names:
        raise CheckpointError(
            f"{folder} has its weights only as {', '.join(sorted(names))}",
            f"{wanted} (pickled files can run any code when they are read)",
            "download the safetensors version, or set model.allow_pickle = true, to read nothing but weights from them",
        )
    raise CheckpointError(f"{folder} has no weights", wanted, COPY_AGAIN)


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
