"""What a checkpoint is, file or folder, without loading it."""

from __future__ import annotations

import os
from pathlib import Path

from rlr_core.models.architectures import architecture_of_file, architecture_of_folder
from rlr_core.models.description import Description
from rlr_core.models.tensor_files import open_tensors


def describe_checkpoint(path: Path, *, allow_pickle: bool = False) -> Description:
    """Raises `CheckpointError`, naming the file, for what is damaged or cannot be trained on."""
    if os.path.isdir(path):
        return architecture_of_folder(path).describe_folder(path, allow_pickle)
    tensors = open_tensors(path, allow_pickle=allow_pickle)
    return architecture_of_file(path, tensors.header).describe_file(path, tensors)
