"""Real hosts: their own key maps find every key that we write for full-size checkpoints, and change weights as we do.

COMFYUI_DIR=/path/to/ComfyUI WEBUI_DIR=/path/to/webui pytest -m host; COMFYUI_PYTHON names ComfyUI's interpreter.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import loras
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers")

from rlr_core.families import FAMILIES
from rlr_core.families.stable_diffusion.stems import TEXT, UNET
from rlr_core.families.stable_diffusion.unet_paths import to_ldm
from rlr_core.lora import LoraWeights, Place, write_lora

HERE = Path(__file__).parent
HOSTS = {"COMFYUI_DIR": "host_comfyui.py", "WEBUI_DIR": "host_webui.py"}
pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]


def host(name: str) -> str:
    if name not in os.environ:
        pytest.skip(f"{name} does not name the host's folder")
    return os.environ[name]


def ask(name: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Let the host's own code look at a file."""
    (folder / "jobs.json").write_text(json.dumps([job]), encoding="utf-8")
    python = os.environ.get(name.replace("_DIR", "_PYTHON"), sys.executable)
    command = [python, str(HERE / HOSTS[name]), host(name), str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])[0]


def all_layers(family: str) -> LoraWeights:
    """A LoRA of rank 1 in every layer that can be trained."""
    generator = torch.Generator().manual_seed(0)
    return {
        place: loras.random_layer(shape, 1, 0.5, generator) for place, shape in loras.shapes(family).items()
    }


def unet_shapes(family: str) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in loras.full_size(family)[UNET].state_dict().items()}


def webui_modules(family: str) -> dict[str, list[int]]:
    """A1111's names of the layers: the original layout, with a number before the text encoders of SDXL."""
    return {_webui_name(place, family): list(shape) for place, shape in loras.shapes(family).items()}


def _webui_name(place: Place, family: str) -> str:
    if place.network == UNET:
        return f"diffusion_model_{to_ldm(place.path, attention_in_first_up_block=FAMILIES[family].is_xl)}".replace(
            ".", "_"
        )
    xl = FAMILIES[family].is_xl
    if FAMILIES[family].parts[place.network].open_clip:
        path = place.path.replace("text_model.encoder.layers", "model.transformer.resblocks").replace(
            "self_attn", "attn"
        )
        path = re.sub(
            r"attn\.[qkv]_proj$", "attn", path.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
        )
        return ("1_" if xl else "") + path.replace(".", "_")
    return ("0_" if xl else "") + f"transformer.{place.path}".replace(".", "_")


@pytest.mark.parametrize("family", loras.FAMILIES)
@pytest.mark.parametrize("kind", ["kohya", "comfyui"])
def test_comfyui_finds_every_key(family, kind, tmp_path):
    host("COMFYUI_DIR")
    weights, file = all_layers(family), tmp_path / "lora.safetensors"
    write_lora(file, weights, {}, kind=kind, family=FAMILIES[family].lora)
    told = ask(
        "COMFYUI_DIR",
        {"family": family, "unet": unet_shapes(family), "file": str(file), "deltas": ""},
        tmp_path,
    )
    assert told["lost"] == []
    assert len(told["layers"]) == len(weights)
    print(f"ComfyUI, {family}, {kind}: {len(told['layers'])} of {len(weights)} layers")


@pytest.mark.parametrize("family", loras.FAMILIES)
def test_comfyui_changes_weights_as_we_do(family, tmp_path):
    host("COMFYUI_DIR")
    weights, file, out = (
        loras.random_lora(family, 4, count=30),
        tmp_path / "l.safetensors",
        tmp_path / "deltas.safetensors",
    )
    write_lora(file, weights, {}, family=FAMILIES[family].lora)
    ask(
        "COMFYUI_DIR",
        {"family": family, "unet": unet_shapes(family), "file": str(file), "deltas": str(out)},
        tmp_path,
    )
    theirs = sorted(float(delta.double().norm()) for delta in load_file(out).values())
    ours = sorted(float(layer.delta().double().norm()) for layer in weights.values())
    assert theirs == pytest.approx(ours, rel=1e-5)


@pytest.mark.parametrize("family", loras.FAMILIES)
def test_a1111_finds_every_key_and_changes_weights_as_we_do(family, tmp_path):
    host("WEBUI_DIR")
    open_clip = FAMILIES[family].parts[TEXT].open_clip
    job = {
        "open_clip": open_clip,
        "modules": webui_modules(family),
        "file": str(tmp_path / "lora.safetensors"),
    }
    weights = all_layers(family)
    write_lora(tmp_path / "lora.safetensors", weights, {}, family=FAMILIES[family].lora)
    told = ask("WEBUI_DIR", {**job, "deltas": ""}, tmp_path)
    assert told["lost"] == []
    assert len(told["layers"]) == len(weights)
    print(f"A1111, {family}: {len(told['layers'])} of {len(weights)} layers")
    few, out = loras.random_lora(family, 4, count=30), tmp_path / "deltas.safetensors"
    write_lora(tmp_path / "lora.safetensors", few, {}, family=FAMILIES[family].lora)
    ask("WEBUI_DIR", {**job, "deltas": str(out)}, tmp_path)
    theirs = load_file(out)
    for place, layer in few.items():
        torch.testing.assert_close(
            theirs[FAMILIES[family].lora.stem(place, "kohya")], layer.delta(), atol=1e-4, rtol=1e-5
        )
