"""All architectures that are loaded; a new one is a folder beside this file, and a line in it."""

from __future__ import annotations

from pathlib import Path

from rlr_core.errors import CheckpointError
from rlr_core.families import any_of
from rlr_core.models.architecture import Architecture, Folders
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
    refuse_unknown(path, header, any_of(each.title for each in ARCHITECTURES))


def architecture_of_folder(path: Path) -> tuple[Architecture, Folders]:
    """Of a folder in diffusers' layout, or of configs alone. Raises `CheckpointError`."""
    known = [(each, each.folders) for each in ARCHITECTURES if each.folders]
    for architecture, folders in known:
        if folders.is_configs(path) or kind_of(path) in folders.pipelines:
            return architecture, folders
    raise CheckpointError(
        f"{path} is a checkpoint for {kind_of(path)}",
        any_of(name for _, folders in known for name in folders.pipelines),
        f"choose a checkpoint of {any_of(each.title for each, _ in known)} for text to image",
    )
