"""Merging into single files: the layers that diffusers finds there have changed, as they should, and nothing else has."""

from __future__ import annotations

import functools
import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import loras
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")

from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_open_clip_checkpoint

from rlr_core.errors import CheckpointError, StorageError
from rlr_core.families import FAMILIES, SD1
from rlr_core.families.stable_diffusion.stems import TEXT, TEXT_2, UNET
from rlr_core.families.stable_diffusion.unet_paths import to_ldm
from rlr_core.lora import LoraWeights, write_lora
from rlr_core.lora.merge import merge

CLIP = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
OPEN_CLIP = {("sd2", TEXT): "cond_stage_model.model.", ("sdxl", TEXT_2): "conditioner.embedders.1.model."}
TELLING = "middle_block.1.transformer_blocks.0.attn2.to_k"


@functools.cache
def unet_names(family: str) -> dict[str, str]:
    """Every weight and bias of the full-size UNet: our name in the original layout → diffusers' name."""
    networks = loras.full_size(family)[UNET].named_modules()
    layers = [path for path, module in networks if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    return {
        f"model.diffusion_model.{to_ldm(path, attention_in_first_up_block=family == 'sdxl')}.{kind}": f"{path}.{kind}"
        for path in layers
        for kind in ("weight", "bias")
    }


def converted(state: dict[str, Any], family: str) -> dict[str, Any]:
    """Diffusers' names of a single file's UNet. Its converter wants all tensors to be there: the others are None."""
    added = {"addition_embed_type": "text_time"} if family == "sdxl" else {}
    complete = dict.fromkeys(unet_names(family)) | state
    found = convert_ldm_unet_checkpoint(complete, {"layers_per_block": 2, "class_embed_type": None, **added})
    return {key: value for key, value in found.items() if value is not None}


@pytest.mark.parametrize("family", loras.FAMILIES)
def test_original_names_are_those_that_diffusers_reads(family):
    """Every layer, named by us in the original layout, converted by diffusers."""
    names = unet_names(family)
    assert converted(names, family) == {name: name for name in names.values()}


def single_file(weights: LoraWeights, family: str) -> dict[str, torch.Tensor]:
    """What a checkpoint in the original layout has of these layers, in half precision, and something else."""
    state = {
        "first_stage_model.encoder.conv_in.weight": torch.randn(3, 3),
        "alphas": torch.ones(5, dtype=torch.float64),
    }
    for place in weights:
        shape = loras.shapes(family)[place]
        if place.network == UNET:
            path = to_ldm(place.path, attention_in_first_up_block=family == "sdxl")
            state[f"model.diffusion_model.{path}.weight"] = torch.randn(shape).half()
        elif (family, place.network) in OPEN_CLIP:
            number, part = place.path.removeprefix("text_model.encoder.layers.").split(".", 1)
            block = f"{OPEN_CLIP[family, place.network]}transformer.resblocks.{number}."
            names = {
                "mlp.fc1": "mlp.c_fc.weight",
                "mlp.fc2": "mlp.c_proj.weight",
                "self_attn.out_proj": "attn.out_proj.weight",
            }
            fused = (3 * shape[0], *shape[1:])
            state[block + names.get(part, "attn.in_proj_weight")] = torch.randn(
                shape if part in names else fused
            ).half()
        else:
            state[f"{CLIP[family]}{place.path}.weight"] = torch.randn(shape).half()
    width = loras.UNETS[family]["cross_attention_dim"]  # which tells the family
    state.setdefault(f"model.diffusion_model.{TELLING}.weight", torch.randn(1280, width).half())
    return state


def read(state: dict[str, torch.Tensor], family: str) -> dict[tuple[str, str], Any]:
    """(network, path) → weight, as diffusers reads a single file."""
    found: dict[tuple[str, str], Any] = {
        (UNET, key): value for key, value in converted(state, family).items()
    }
    for (name, network), prefix in OPEN_CLIP.items():
        if name == family:
            model = SimpleNamespace(config=SimpleNamespace(hidden_size=1024 if family == "sd2" else 1280))
            found |= {(network, k): v for k, v in convert_open_clip_checkpoint(model, state, prefix).items()}
    for key, value in state.items():
        if family in CLIP and key.startswith(CLIP[family]):
            found[TEXT, key.removeprefix(CLIP[family])] = value
    return found


@pytest.mark.parametrize("family", loras.FAMILIES)
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_layers_change_as_they_should_and_nothing_else(family, dora, tmp_path):
    weights = loras.random_lora(family, 6, count=30, dora=dora)
    before = single_file(weights, family)
    lora, source, out = (tmp_path / f"{name} ü.safetensors" for name in ("lora", "source", "out"))
    write_lora(lora, weights, {}, family=FAMILIES[family].lora)
    save_file(before, source, metadata={"title": "t", "modelspec.hash_sha256": "0x1"})
    assert merge(lora, source, out, 0.6) <= len(weights)
    after = load_file(out)
    assert after.keys() == before.keys() and all(after[k].dtype == v.dtype for k, v in before.items())
    old, new = read(before, family), read(after, family)
    touched = {(place.network, f"{place.path}.weight") for place in weights}
    assert touched <= old.keys()
    for place, layer in weights.items():
        key = place.network, f"{place.path}.weight"
        expected = layer.applied(old[key], 0.6)
        torch.testing.assert_close(new[key], expected.half(), atol=0, rtol=0)
    assert all(torch.equal(new[key], value) for key, value in old.items() if key not in touched)
    assert all(
        torch.equal(after[key], before[key]) for key in ("first_stage_model.encoder.conv_in.weight", "alphas")
    )
    with safe_open(out, "pt") as tensors:
        assert tensors.metadata() == {"title": "t", "rlr.merged": f"{lora.stem} at 0.6"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in (lora, source, out)
    )


def test_what_cannot_be_merged_is_refused_and_leaves_nothing(tmp_path):
    weights = loras.random_lora("sd1", 6, count=4)
    state = single_file(weights, "sd1")
    lora, source, out = (tmp_path / f"{name}.safetensors" for name in ("lora", "source", "out"))
    write_lora(lora, weights, {}, family=SD1.lora)
    save_file(state, source)

    def refuse(message: str, strength: float = 1.0) -> None:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(CheckpointError, match=message):
            merge(lora, source, out, strength)
        assert sorted(tmp_path.iterdir()) == before

    refuse("a strength of 0", 0.0)
    refuse("a strength of nan", float("nan"))
    refuse("would hold NaN or infinity", 1e6)
    key = next(key for key in state if key.startswith("model.diffusion_model"))
    save_file({name: value for name, value in state.items() if name != key}, source)
    refuse("lacks 1 of the LoRA's 4 layers, such as unet")
    save_file({**state, key: torch.ones(2, 2)}, source)
    refuse("has the shape")
    out.write_bytes(b"mine")
    with pytest.raises(StorageError, match="is there already"):
        merge(lora, source, out, 1.0)
    assert out.read_bytes() == b"mine"
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="lacks"):
        merge(lora, tmp_path / "folder", tmp_path / "merged", 1.0)
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "merged").exists()


def test_eight_bit_weights_stay_eight_bit(tmp_path: Path):
    weights = loras.random_lora("sd1", 6, count=2)
    state = {key: value.to(torch.float8_e4m3fn) for key, value in single_file(weights, "sd1").items()}
    lora, source, out = (tmp_path / f"{name}.safetensors" for name in ("lora", "source", "out"))
    write_lora(lora, weights, {}, family=SD1.lora)
    save_file(state, source)
    merge(lora, source, out, 1.0)
    (length,) = struct.unpack("<Q", out.read_bytes()[:8])
    entries = json.loads(out.read_bytes()[8 : 8 + length])
    assert {entry["dtype"] for name, entry in entries.items() if name != "__metadata__"} == {"F8_E4M3"}
    assert len(load_file(out)) == len(state)
