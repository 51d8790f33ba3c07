"""Runs inside ComfyUI's own Python: its key maps and its arithmetic, on LoRA files.

python host_comfyui.py COMFYUI_DIR JOBS.json: for each job, the family's networks are built without memory by ComfyUI's own
classes; `unet` gives the shapes of diffusers' UNet, by which ComfyUI knows the family. What its loader makes
of each file is printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

folder, jobs_file = sys.argv[1:]
sys.path.insert(0, folder)
sys.argv[1:] = ["--cpu"]

import comfy.options  # pyright: ignore[reportMissingImports]

comfy.options.enable_args_parsing()

import comfy.lora  # pyright: ignore[reportMissingImports]
import comfy.model_detection  # pyright: ignore[reportMissingImports]
import comfy.ops  # pyright: ignore[reportMissingImports]
import comfy.sd1_clip  # pyright: ignore[reportMissingImports]
import comfy.sdxl_clip  # pyright: ignore[reportMissingImports]
import comfy.text_encoders.sd2_clip  # pyright: ignore[reportMissingImports]
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # pyright: ignore[reportMissingImports]
from safetensors.torch import load_file, save_file

CLIPS = {
    "sd1": comfy.sd1_clip.SD1ClipModel,
    "sd2": comfy.text_encoders.sd2_clip.SD2ClipModel,
    "sdxl": comfy.sdxl_clip.SDXLClipModel,
}


class Model(torch.nn.Module):
    """As much of a model as the key map asks for."""

    def __init__(self, shapes: dict[str, list[int]]):
        super().__init__()
        tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        unet = comfy.model_detection.unet_config_from_diffusers_unet(tensors, torch.float32)
        self.diffusion_model = UNetModel(**unet, device="meta", operations=comfy.ops.disable_weight_init)
        self.model_config = type("Config", (), {"unet_config": unet})


def look(job: dict[str, Any]) -> dict[str, Any]:
    """What is loaded, what is not, and (in a file) what becomes of weights that are 0."""
    assert job["family"] in CLIPS, "CLIPS in host_comfyui.py has a line for each family"
    model, clip = Model(job["unet"]), CLIPS[job["family"]](device="meta")
    known = comfy.lora.model_lora_keys_clip(clip, comfy.lora.model_lora_keys_unet(model, {}))
    shapes = {
        name: tuple(value.shape) for network in (model, clip) for name, value in network.state_dict().items()
    }
    state = load_file(job["file"])
    patches = comfy.lora.load_lora(state, known)
    used = {key for patch in patches.values() for key in patch.loaded_keys}
    if job["deltas"]:
        deltas = {
            key: comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], torch.zeros(shapes[key]), key)
            for key, patch in patches.items()
        }
        save_file({key: value.contiguous() for key, value in deltas.items()}, job["deltas"])
    return {"layers": sorted(patches), "lost": sorted(state.keys() - used)}


print(json.dumps([look(job) for job in json.loads(Path(jobs_file).read_text(encoding="utf-8"))]))
