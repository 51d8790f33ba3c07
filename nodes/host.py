"""All that is used of ComfyUI, so that it is seen in one place, and a small stand-in (`tests/fake_comfyui.py`) can take it.

The core never imports this.
"""

from __future__ import annotations

from typing import Any

import comfy.model_management  # pyright: ignore[reportMissingImports]
import comfy.model_sampling  # pyright: ignore[reportMissingImports]
import comfy.samplers  # pyright: ignore[reportMissingImports]
import comfy.sd  # pyright: ignore[reportMissingImports]
import comfy.utils  # pyright: ignore[reportMissingImports]
import folder_paths  # pyright: ignore[reportMissingImports]

CONST: Any = comfy.model_sampling.CONST
EPS: Any = comfy.model_sampling.EPS
SCHEDULER_NAMES: Any = comfy.samplers.SCHEDULER_NAMES
calculate_sigmas: Any = comfy.samplers.calculate_sigmas
load_models_gpu: Any = comfy.model_management.load_models_gpu
output_folder: Any = folder_paths.get_output_directory
process_conds: Any = comfy.samplers.process_conds
processing_interrupted: Any = comfy.model_management.processing_interrupted
progress_bar: Any = comfy.utils.ProgressBar
raise_if_interrupted: Any = comfy.model_management.throw_exception_if_processing_interrupted
sampling_function: Any = comfy.samplers.sampling_function
with_lora: Any = comfy.sd.load_lora_for_models
