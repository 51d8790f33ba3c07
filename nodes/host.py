"""All that is used of ComfyUI, so that it is seen in one place, and a small stand-in (`tests/fake_comfyui.py`) can take it.

The core never imports this.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.model_management  # pyright: ignore[reportMissingImports]
import comfy.model_sampling  # pyright: ignore[reportMissingImports]
import comfy.samplers  # pyright: ignore[reportMissingImports]
import comfy.sd  # pyright: ignore[reportMissingImports]
import comfy.utils  # pyright: ignore[reportMissingImports]
import folder_paths  # pyright: ignore[reportMissingImports]

CONST: Any = comfy.model_sampling.CONST
EPS: Any = comfy.model_sampling.EPS
Interrupted: Any = comfy.model_management.InterruptProcessingException
SCHEDULER_NAMES: Any = comfy.samplers.SCHEDULER_NAMES
calculate_sigmas: Any = comfy.samplers.calculate_sigmas
device: Any = comfy.model_management.get_torch_device
load_models_gpu: Any = comfy.model_management.load_models_gpu
lora_folders: Any = partial(folder_paths.get_folder_paths, "loras")
models_folder: str = folder_paths.models_dir
numbered_place: Any = folder_paths.get_save_image_path
output_folder: Any = folder_paths.get_output_directory
process_conds: Any = comfy.samplers.process_conds
processing_interrupted: Any = comfy.model_management.processing_interrupted
progress_bar: Any = comfy.utils.ProgressBar
sampling_function: Any = comfy.samplers.sampling_function
unload_all_models: Any = comfy.model_management.unload_all_models
with_lora: Any = comfy.sd.load_lora_for_models


@contextmanager
def training() -> Iterator[None]:
    """Inside, networks keep to kernels with a gradient; versions that have no others lack the flag."""
    host: Any = comfy.model_management
    before = getattr(host, "in_training", None)
    if before is None:
        yield
        return
    host.in_training = True
    try:
        yield
    finally:
        host.in_training = before


def server() -> Any:
    """The server that the nodes run in; None where there is none, as in tests."""
    module = sys.modules.get("server")
    return getattr(getattr(module, "PromptServer", None), "instance", None)


def send(event: str, data: dict[str, Any]) -> None:
    """To the browser that queued the graph."""
    if there := server():
        there.send_sync(event, data, there.client_id)
