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
        device: where the weights go. On "meta" networks have their shapes only, and no weights are read.
        dtype: of the weights.
        prediction: what the denoiser predicts; "auto" is what the checkpoint says.
        zero_snr: whether the last noise level is nothing but noise, "yes" or "no"; "auto" is what the checkpoint says.
        vae: a file or folder with another VAE than the checkpoint's own.
        clip_skip: the layer of the text encoder that is used, counted from the end; 0 is the checkpoint's own.
        allow_pickle: whether pickled files may be read, weights only.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    prediction: str = "auto"
    zero_snr: str = "auto"
    vae: Path | None = None
    clip_skip: int = 0
    allow_pickle: bool = False

    @property
    def blank(self) -> bool:
        """Whether the model is wanted without weights, for the planner."""
        return self.device.type == "meta"


SETTINGS = {"prediction": "auto", "zero_snr": "auto", "vae": None, "clip_skip": 0}
"""What of a `Request` not every architecture takes → the value that asks for nothing."""


@dataclass(frozen=True)
class Folders:
    """Folders in diffusers' layout; the functions as in `Architecture`.

    Attributes:
        pipelines: what diffusers calls them in `model_index.json`.
        is_configs: whether a folder holds nothing but configs of it, which is loaded without weights alone.
        describe: what a folder is; the flag is `Request.allow_pickle`.
        load: the model.
    """

    pipelines: tuple[str, ...]
    is_configs: Callable[[Path], bool]
    describe: Callable[[Path, bool], Description]
    load: Callable[[Path, Request], Model]


@dataclass(frozen=True)
class Architecture:
    """One kind. All functions raise `CheckpointError`, naming the file, for what is damaged or cannot be trained on.

    Attributes:
        title: for people, with the families that it has.
        is_file: whether a file with this header is one.
        describe_file: what a file at a path is, of which the tensors are open.
        load_file: the model of a file, of which the tensors are open; if it is wanted blank, they are not read.
        settings: those of `SETTINGS` that it takes.
        folders: its folders, where it has any.
    """

    title: str
    is_file: Callable[[Header], bool]
    describe_file: Callable[[Path, TensorFile], Description]
    load_file: Callable[[Path, TensorFile, Request], Model]
    settings: tuple[str, ...] = ()
    folders: Folders | None = None
