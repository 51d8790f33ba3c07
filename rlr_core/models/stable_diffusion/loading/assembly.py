"""The model of a file, of a folder in diffusers' layout, or of nothing but configs."""

from __future__ import annotations

from pathlib import Path

from rlr_core.errors import CheckpointError
from rlr_core.models.architecture import Request
from rlr_core.models.stable_diffusion.loading.blank import blank_file, blank_folder
from rlr_core.models.stable_diffusion.loading.file import file_parts
from rlr_core.models.stable_diffusion.loading.folder import folder_parts
from rlr_core.models.stable_diffusion.loading.parts import assembled
from rlr_core.models.stable_diffusion.model import StableDiffusion
from rlr_core.models.tensor_files import TensorFile


def load_file(path: Path, tensors: TensorFile, request: Request) -> StableDiffusion:
    """Of a single file in the original layout, whose tensors are open. Raises `CheckpointError`, or `ConfigError`."""
    _require_libraries()
    return assembled((blank_file if request.blank else file_parts)(path, tensors, request), request)


def load_folder(path: Path, request: Request) -> StableDiffusion:
    """Of a folder in diffusers' layout. Raises `CheckpointError`, or `ConfigError`."""
    _require_libraries()
    return assembled((blank_folder if request.blank else folder_parts)(path, request), request)


def _require_libraries() -> None:
    try:
        import diffusers  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise CheckpointError(
            f"{error.name} is not installed", "diffusers and transformers", "pip install 'rlr[sd]'"
        ) from None
