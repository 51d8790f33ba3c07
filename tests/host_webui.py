"""Runs A1111's own LoRA loader on LoRA files, with empty stand-ins for the rest of the program.

python host_webui.py WEBUI_DIR JOBS.json: `modules` gives the layers of the family's networks in A1111's words, with the shapes
of their weights. What its loader makes of each file is printed.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from safetensors.torch import load_file, save_file

folder, jobs_file = sys.argv[1:]
sys.path.insert(0, str(Path(folder) / "extensions-builtin" / "Lora"))
for name in ("gradio", "einops", "lora_patches", "lora_logger"):
    sys.modules[name] = MagicMock()
modules: Any = types.ModuleType("modules")
for name in (
    "shared",
    "devices",
    "sd_models",
    "errors",
    "scripts",
    "sd_hijack",
    "cache",
    "hashes",
    "textual_inversion",
):
    sys.modules[f"modules.{name}"] = MagicMock()
    setattr(modules, name, sys.modules[f"modules.{name}"])
sys.modules["modules"] = modules
sys.modules["modules.textual_inversion.textual_inversion"] = MagicMock()
modules.devices.cpu, modules.devices.dtype = torch.device("cpu"), torch.float32
modules.sd_models.read_state_dict = load_file

import networks  # pyright: ignore[reportMissingImports]


def layer(shape: list[int], attention: bool) -> torch.nn.Module:
    """A layer whose weight has that shape, without memory."""
    if attention:
        return torch.nn.MultiheadAttention(shape[0], 1, device="meta")
    if len(shape) == 2:
        return torch.nn.Linear(shape[1], shape[0], device="meta")
    return torch.nn.Conv2d(shape[1], shape[0], shape[2:], padding=shape[2] // 2, device="meta")


def look(job: dict[str, Any]) -> dict[str, Any]:
    """What is loaded, and (in a file) what becomes of weights that are 0."""
    named = {name: layer(shape, name.endswith("attn")) for name, shape in job["modules"].items()}
    named["model_transformer_resblocks" if job["open_clip"] else "_"] = torch.nn.Identity()
    modules.shared.sd_model = types.SimpleNamespace(network_layer_mapping=named)
    net = networks.load_network("lora", types.SimpleNamespace(filename=job["file"]))
    net.te_multiplier = net.unet_multiplier = 1.0
    used = {m.network_key.partition(".")[0] for m in net.modules.values()}
    if job["deltas"]:
        deltas = {
            module.network_key.partition(".")[0]: module.calc_updown(torch.zeros(1))[0].contiguous()
            for module in net.modules.values()
        }
        save_file(deltas, job["deltas"])
    stems = {key.partition(".")[0] for key in load_file(job["file"])}
    return {"layers": sorted(net.modules), "lost": sorted(stems - used)}


print(json.dumps([look(job) for job in json.loads(Path(jobs_file).read_text(encoding="utf-8"))]))
