"""A kind of models that are loaded alike: how its files are told, described and loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from rlr_core.models.description import Description
from rlr_core.models.model import Model
from rlr_core.models.tensor_files import TensorFile
from rlr_core.safetensors_header import Header


@dataclass(frozen=True)
class Request:
    """How a checkpoint is wanted.

    Attributes:
        name: for people.
        device: where the weights go. On "meta" networks have their shapes only.
        dtype: of the weights.
        prediction: what the denoiser predicts; "auto" is what the checkpoint says.
        vae: a file or folder with another VAE than the checkpoint's own.
        clip_skip: the layer of the text encoder that is used, counted from the end; 0 is the checkpoint's own.
        allow_pickle: whether pickled files may be read, weights only.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    prediction: str = "auto"
    vae: Path | None = None
    clip_skip: int = 0
    allow_pickle: bool = False


@dataclass(frozen=True)
class Architecture:
    """One kind. All functions raise `CheckpointError`, naming the file, for what is damaged or cannot be trained on.

    Attributes:
        title: for people.
        pipelines: what diffusers calls it in `model_index.json`.
        is_file: whether a file with this header is one.
        describe_file: what a file at a path is, of which the tensors are open.
        describe_folder: what a folder in diffusers' layout is.
        load_file: the model of a file, of which the tensors are open.
        load_folder: the model of a folder in diffusers' layout.
        load_blank: a model without weights, on "meta": of a checkpoint, or of a folder with nothing but configs.
        is_configs: whether a folder is one of those.
    """

    title: str
    pipelines: tuple[str, ...]
    is_file: Callable[[Header], bool]
    describe_file: Callable[[Path, TensorFile], Description]
    describe_folder: Callable[[Path, bool], Description]
    load_file: Callable[[Path, TensorFile, Request], Model]
    load_folder: Callable[[Path, Request], Model]
    load_blank: Callable[[Path, Request], Model]
    is_configs: Callable[[Path], bool]
