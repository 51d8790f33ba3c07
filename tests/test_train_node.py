"""The node that trains, as ComfyUI runs it."""

from __future__ import annotations

import sys
from typing import Any

import comfy_bed
import pytest
import torch

from rlr_core.errors import PromptError

SMALL = {
    "iterations": 2, "batch_size": 2, "rank": 2, "steps": 2, "width": 64, "height": 64, "held_out_pairs": 2,
}  # fmt: skip


def run(folder: Any, monkeypatch: Any, **changes: Any) -> Any:
    """With the inputs' defaults, but for `SMALL` and `changes`."""
    node = comfy_bed.node_file("train_node")
    monkeypatch.setattr(node, "output_folder", lambda: str(folder))
    kinds = node.RLRTrain.INPUT_TYPES()["required"]
    defaults = {name: kind[1]["default"] for name, kind in kinds.items() if "default" in kind[1]}
    objects = dict(zip(("model", "clip", "vae"), comfy_bed.objects(), strict=True))
    inputs = {**objects, **defaults, **SMALL, "reward": "sharpness", "estimator": "zeroth", **changes}
    with torch.inference_mode():
        return objects, node.RLRTrain().train(**inputs, unique_id="7")


def test_every_input_has_a_tooltip_and_comfyui_finds_the_node():
    node = comfy_bed.node_file("train_node").RLRTrain
    assert all(kind[1].get("tooltip") for kind in node.INPUT_TYPES()["required"].values())
    assert {"RLRTrain": node} == sys.modules[comfy_bed.PACK].NODE_CLASS_MAPPINGS


def test_it_gives_the_model_with_the_lora_and_keeps_every_run(tmp_path, monkeypatch):
    objects, (model, lora, folder) = run(tmp_path, monkeypatch, prompts="a cat\n\na dog\n")
    assert model.model is objects["model"].model and model.patches and not objects["model"].patches
    assert any(value.abs().max() > 0 for name, value in lora.items() if name.endswith("lora_up.weight"))
    assert folder.endswith("run-0001") and run(tmp_path, monkeypatch, prompts="a cat")[1][2].endswith(
        "run-0002"
    )


def test_no_prompts_are_refused_in_words(tmp_path, monkeypatch):
    with pytest.raises(PromptError, match=r"no prompts\n.*each line"):
        run(tmp_path, monkeypatch, prompts=" \n")
