"""What a painted file says of itself is read by A1111's own rules, and by ComfyUI as a graph of its nodes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from rlr_core.chain import flow_matching
from rlr_core.dcot import StageSettings, parse_line
from rlr_core.runs.comfyui_graph import graph
from rlr_core.runs.hashes import checkpoint_hash, lora_hash
from rlr_core.runs.painted import Painted, parameters

PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""A1111's `re_param` (modules/infotext_utils.py)."""
PLAIN = Painted(
    prompt="a red circle, (bright), größer 猫",
    negative="blurry\nNegative: dark",
    seed=7,
    steps=20,
    guidance_scale=3.5,
    sampler="dpmpp_2m",
    eta=1.0,
    size=(64, 96),
    checkpoint="my, own.safetensors",
    checkpoint_hash="0123456789",
    clip_skip=2,
    lora="rlr-demo.safetensors",
    lora_hash="abcdef012345",
    strength=0.5,
)
INPUTS = {
    "CheckpointLoaderSimple": {"ckpt_name"},
    "LoraLoader": {"model", "clip", "lora_name", "strength_model", "strength_clip"},
    "ModelSamplingDiscrete": {"model", "sampling", "zsnr"},
    "CLIPSetLastLayer": {"clip", "stop_at_clip_layer"},
    "VAELoader": {"vae_name"},
    "CLIPTextEncode": {"text", "clip"},
    "ConditioningSetTimestepRange": {"conditioning", "start", "end"},
    "ConditioningCombine": {"conditioning_1", "conditioning_2"},
    "EmptyLatentImage": {"width", "height", "batch_size"},
    "KSampler": {
        "model", "seed", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative", "latent_image", "denoise",
    },
    "VAEDecode": {"samples", "vae"},
    "SaveImage": {"images", "filename_prefix"},
}  # fmt: skip
"""What ComfyUI's stock nodes require (nodes.py, comfy_extras/nodes_model_advanced.py)."""
OUTPUTS = {
    "CheckpointLoaderSimple": ["MODEL", "CLIP", "VAE"], "LoraLoader": ["MODEL", "CLIP"], "ModelSamplingDiscrete": ["MODEL"],
    "CLIPSetLastLayer": ["CLIP"], "VAELoader": ["VAE"], "CLIPTextEncode": ["CONDITIONING"], "EmptyLatentImage": ["LATENT"],
    "KSampler": ["LATENT"], "VAEDecode": ["IMAGE"],
    "ConditioningSetTimestepRange": ["CONDITIONING"], "ConditioningCombine": ["CONDITIONING"],
}  # fmt: skip
KINDS = {
    "model": "MODEL", "clip": "CLIP", "vae": "VAE", "positive": "CONDITIONING", "negative": "CONDITIONING",
    "latent_image": "LATENT", "samples": "LATENT", "images": "IMAGE",
    "conditioning": "CONDITIONING", "conditioning_1": "CONDITIONING", "conditioning_2": "CONDITIONING",
}  # fmt: skip


def parsed(text: str) -> dict[str, str]:
    """As A1111's `parse_generation_parameters` does it."""
    *lines, last = text.strip().split("\n")
    found = {"Prompt": "", "Negative prompt": ""}
    into = "Prompt"
    for line in lines:
        if line.strip().startswith("Negative prompt:"):
            into, line = "Negative prompt", line.strip()[16:]
        found[into] += ("\n" if found[into] else "") + line.strip()
    pairs = PARAMETER.findall(last)
    assert len(pairs) >= 3, "A1111 takes a shorter line for a part of the prompt"
    return found | {key: json.loads(value) if value.startswith('"') else value for key, value in pairs}


def test_a1111_reads_it():
    read = parsed(parameters(PLAIN))
    assert read["Prompt"] == r"a red circle, \(bright\), größer 猫 <lora:rlr-demo:0.5>"
    assert read["Negative prompt"] == "blurry\nNegative: dark"
    expected = {
        "Steps": "20", "Sampler": "DPM++ 2M", "Schedule type": "DDIM", "CFG scale": "3.5", "Seed": "7", "Size": "64x96",
        "Model hash": "0123456789", "Model": "my, own", "Clip skip": "2", "Lora hashes": "rlr-demo: abcdef012345",
    }  # fmt: skip
    assert expected.items() <= read.items()


@pytest.mark.parametrize(
    ("sampler", "eta", "names"),
    [
        ("chain", 1.0, ("Euler a", "euler_ancestral")),
        ("chain", 0.5, ("Euler a", "euler_ancestral")),
        ("chain", 0.0, ("Euler", "euler")),
        ("ddim", 1.0, ("DDIM", "ddim")),
    ],
)
def test_samplers_have_their_names(sampler, eta, names):
    painted = Painted(**{**vars(PLAIN), "sampler": sampler, "eta": eta})
    assert painted.names == names
    assert parsed(parameters(painted))["Sampler"] == names[0]
    assert parsed(parameters(painted)).get("Eta") == ("0.5" if eta == 0.5 else None)


def test_a_lora_without_effect_is_not_named():
    painted = Painted(**{**vars(PLAIN), "strength": 0.0})
    assert "lora" not in parameters(painted).lower()
    assert "LoraLoader" not in {node["class_type"] for node in graph(painted).values()}


STAGES = "coarse: a beach | mid: a dog (big) | fine: fur | negative: blurry (bad)"
LEVELS = flow_matching(torch.linspace(1, 0, PLAIN.steps + 1))


def in_stages(line: str, **changes) -> Painted:
    return Painted(**{**vars(PLAIN), **changes}).told(parse_line(line), StageSettings(), LEVELS)


def runnable(nodes) -> None:
    """Every node has just the inputs that it requires, every link leads to an output of the right kind, none is left over."""
    for node in nodes.values():
        assert node["inputs"].keys() == INPUTS[node["class_type"]]
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                assert OUTPUTS[nodes[value[0]]["class_type"]][value[1]] == KINDS[name]
    used = {
        value[0] for node in nodes.values() for value in node["inputs"].values() if isinstance(value, list)
    }
    assert used == nodes.keys() - {"file"}


@pytest.mark.parametrize(
    "change", [{}, {"vae": "x.pt", "prediction": "v_prediction"}, {"lora": "", "clip_skip": 0}]
)
def test_comfyui_can_run_the_graph(change):
    nodes = graph(Painted(**{**vars(PLAIN), **change}))
    runnable(nodes)
    sampling = nodes["sampler"]["inputs"]
    assert (sampling["seed"], sampling["steps"], sampling["cfg"]) == (7, 20, 3.5)
    assert nodes[sampling["positive"][0]]["inputs"]["text"] == r"a red circle, \(bright\), größer 猫", (
        "without A1111's <lora:…>"
    )


def test_prompts_by_stage_are_told_to_both():
    painted = in_stages(STAGES)
    read, nodes = parsed(parameters(painted)), graph(painted)
    assert read["Prompt"] == r"[[a beach:a dog \(big\):0.333332]:fur:0.666666] <lora:rlr-demo:0.5>"
    assert read["Negative prompt"] == r"blurry \(bad\)"
    runnable(nodes)
    texts = {node["inputs"]["text"] for node in nodes.values() if node["class_type"] == "CLIPTextEncode"}
    assert texts == {"a beach", r"a dog \(big\)", "fur", r"blurry \(bad\)"}
    ranges = [
        (node["inputs"]["start"], node["inputs"]["end"])
        for node in nodes.values()
        if node["class_type"] == "ConditioningSetTimestepRange"
    ]
    assert [start for start, _ in ranges[1:]] == [end for _, end in ranges[:-1]] and len(ranges) == 3


def test_a_plain_prompt_has_its_own_negative_prompt():
    painted = in_stages("a cat | negative: dogs")
    assert parsed(parameters(painted))["Negative prompt"] == "dogs"
    assert graph(painted)["negative prompt"]["inputs"]["text"] == "dogs"


def test_hashes_are_those_of_a1111(tmp_path, monkeypatch):
    """Ten digits of a whole checkpoint file; twelve of what follows a LoRA's header."""
    monkeypatch.setenv("RLR_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "x.safetensors"
    file.write_bytes((4).to_bytes(8, "little") + b"head" + b"tensors")
    assert lora_hash(file) == hashlib.sha256(b"tensors").hexdigest()[:12]
    assert checkpoint_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest()[:10]
    (tmp_path / "folder" / "unet").mkdir(parents=True)
    assert checkpoint_hash(tmp_path / "folder") == ""
    file.rename(tmp_path / "folder" / "unet" / file.name)
    assert checkpoint_hash(tmp_path / "folder") == checkpoint_hash(tmp_path / "folder" / "unet" / file.name)


def test_a_checkpoint_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setenv("RLR_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"first")
    first, opened = checkpoint_hash(file), []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *a, **k: opened.append(path) or real(path, *a, **k))
    assert checkpoint_hash(file) == first and file not in opened
    file.write_bytes(b"another one")
    assert checkpoint_hash(file) == hashlib.sha256(b"another one").hexdigest()[:10]
    (tmp_path / "cache" / "rlr" / "hashes.json").write_text('{"x": [1, 2]}', encoding="utf-8")
    assert checkpoint_hash(file) == hashlib.sha256(b"another one").hexdigest()[:10]


def test_sample_writes_it(tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    from rlr_core.cli import main

    monkeypatch.setenv("RLR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    settings = ["--set", "sampling.steps=2", "--set", "prompts.negative=a, b"]
    assert main(["sample", "a red círcle", "--count", "2", "--seed", "5", *settings]) == 0
    with Image.open(tmp_path / "sample" / "001.png") as picture:
        told, size = dict(picture.info), picture.size
    read = parsed(told["parameters"])
    assert (read["Prompt"], read["Negative prompt"], read["Seed"]) == ("a red círcle", "a, b", "6")
    assert (read["Steps"], read["Model"], read["Size"]) == ("2", "embedded", f"{size[0]}x{size[1]}")
    assert re.fullmatch("[0-9a-f]{10}", read["Model hash"])
    assert json.loads(told["prompt"])["latent"]["inputs"]["width"] == size[0]
    before = {path.name: path.read_bytes() for path in (tmp_path / "sample").iterdir()}
    assert main(["sample", "another", "--count", "2"]) == 2, "nothing is overwritten"
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "sample").iterdir()}


def test_sample_shows_a_prompt_in_its_own_way(tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    from rlr_core.cli import main

    monkeypatch.setenv("RLR_CACHE", str(tmp_path / "cache"))
    assert (
        main(["sample", "a red circle --s 2 --l 1.5 --d 42", "--count", "2", "--out", str(tmp_path / "out")])
        == 0
    )
    with Image.open(tmp_path / "out" / "001.png") as picture:
        read = parsed(picture.info["parameters"])
        nodes = json.loads(picture.info["prompt"])
    assert (read["Steps"], read["CFG scale"], read["Seed"]) == ("2", "1.5", "43")
    assert (nodes["sampler"]["inputs"]["steps"], nodes["sampler"]["inputs"]["seed"]) == (2, 43)
    assert read["Prompt"] == nodes["prompt"]["inputs"]["text"] == "a red circle"
