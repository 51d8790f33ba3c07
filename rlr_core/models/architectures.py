"""All architectures that are loaded; a new one is a folder beside this file, and a line in it."""

from __future__ import annotations

from pathlib import Path

from rlr_core.errors import CheckpointError
from rlr_core.models.architecture import Architecture
from rlr_core.models.diffusers_folder import kind_of
from rlr_core.models.refusals import refuse_unknown
from rlr_core.models.stable_diffusion import STABLE_DIFFUSION
from rlr_core.safetensors_header import Header

ARCHITECTURES: tuple[Architecture, ...] = (STABLE_DIFFUSION,)


def architecture_of_file(path: Path, header: Header) -> Architecture:
    """Raises `CheckpointError`, saying what the file at `path` is where that is known, if it is of no architecture here."""
    for architecture in ARCHITECTURES:
        if architecture.is_file(header):
            return architecture
    refuse_unknown(path, header)


def architecture_of_folder(path: Path) -> Architecture:
    """Of a folder in diffusers' layout, or of configs alone. Raises `CheckpointError`."""
    for architecture in ARCHITECTURES:
        if architecture.is_configs(path) or kind_of(path) in architecture.pipelines:
            return architecture
    known = [name for architecture in ARCHITECTURES for name in architecture.pipelines]
    raise CheckpointError(
        f"{path} is a checkpoint for {kind_of(path)}",
        f"{' or '.join(known)}: Stable Diffusion 1.x, 2.x or XL, for text to image",
        "choose a Stable Diffusion checkpoint for text to image; other families are not supported yet",
    )
