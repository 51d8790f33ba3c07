"""What a checkpoint is, file or folder, without loading it."""

from __future__ import annotations

import os
from pathlib import Path

from rlr_core.errors import CheckpointError
from rlr_core.families import FAMILIES, StableDiffusionFamily
from rlr_core.models.architectures import architecture_of_file, architecture_of_folder
from rlr_core.models.description import Description
from rlr_core.models.tensor_files import open_tensors


def describe_checkpoint(path: Path, *, allow_pickle: bool = False) -> Description:
    """Raises `CheckpointError`, naming the file, for what is damaged or cannot be trained on."""
    if not os.path.exists(path):
        raise CheckpointError(
            f"there is no checkpoint at {path}",
            '"embedded", or a file or folder on this machine (names on the Hugging Face Hub are not looked up)',
            "check model.checkpoint for a typing error",
        )
    if os.path.isdir(path):
        return architecture_of_folder(path)[1].describe(path, allow_pickle)
    tensors = open_tensors(path, allow_pickle=allow_pickle)
    return architecture_of_file(path, tensors.header).describe_file(path, tensors)


def family_of_checkpoint(path: Path, *, allow_pickle: bool = False) -> StableDiffusionFamily | None:
    """The family of a Stable Diffusion checkpoint, None of another architecture. Raises as `describe_checkpoint`.

    A family's folder of configs, without weights, is of that family.
    """
    for family in FAMILIES.values():
        if path == family.configs:
            return family
    title = describe_checkpoint(path, allow_pickle=allow_pickle).family
    return next((family for family in FAMILIES.values() if family.title == title), None)
