"""The same weights under other names, or in other files, are the same; a network that is smaller is told by its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("diffusers")

import diffusers
import ldm
import tiny

from rlr_core.errors import CheckpointError
from rlr_core.families import SDXL, Place
from rlr_core.lora import write_lora
from rlr_core.lora.merge import merge
from rlr_core.lora.weights import LayerWeights
from rlr_core.models import load_model
from rlr_core.models.describing import describe_checkpoint

PROJECTION = "conditioner.embedders.1.model.text_projection"
TELLING = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return tiny.build_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


def load(path: Path, **options: Any) -> Any:
    return load_model(str(path), device="cpu", dtype=torch.float32, **options)


def same_vae(found: Any, expected: Any) -> bool:
    state = expected.state_dict()
    return found.state_dict().keys() == state.keys() and all(
        torch.equal(value, state[name]) for name, value in found.state_dict().items()
    )


# merging into open_clip's names


@pytest.mark.parametrize("shape", [(6, 6), (6, 4)], ids=["square", "not square"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_a_text_projection_lies_transposed_in_a_file(shape, dora, tmp_path):
    """open_clip computes x @ P, transformers' linear layer W·x: P = Wᵀ (diffusers reads it so)."""
    torch.manual_seed(0)
    norms = torch.rand(shape[0], 1) + 0.5 if dora else None
    layer = LayerWeights(torch.randn(2, shape[1]), torch.randn(shape[0], 2), 3.0, norms)
    lora, base, out = (tmp_path / f"{name}.safetensors" for name in ("lora", "base", "out"))
    write_lora(lora, {Place("text_encoder_2", "text_projection"): layer}, {}, family=SDXL.lora)
    assert "lora_te2_text_projection.alpha" in load_file(lora)
    weight = torch.randn(shape)
    save_file({PROJECTION: weight.T.contiguous(), TELLING: torch.zeros(4, 2048)}, base)
    assert merge(lora, base, out, 0.5) == 1
    torch.testing.assert_close(load_file(out)[PROJECTION], layer.applied(weight, 0.5).T)


# VAEs


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
SPELLINGS = {
    "today's": lambda name, value: (name, value),
    "old": lambda name, value: (old_name(name), value),
    "old, convolutions": lambda name, value: (old_name(name), convolution(name, value)),
    "today's, convolutions": lambda name, value: (name, convolution(name, value)),
    "old, in a checkpoint's part": lambda name, value: (f"first_stage_model.{old_name(name)}", value),
}


def old_name(name: str) -> str:
    """As diffusers wrote it before 0.18."""
    for today, before in OLD.items():
        name = name.replace(f"attentions.0.{today}.", f"attentions.0.{before}.")
    return name


def convolution(name: str, value: Tensor) -> Tensor:
    return value[:, :, None, None] if "attentions" in name and value.dim() == 2 else value


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> tuple[Any, Any]:
    """Of SD's layout with few channels, and a family whose VAE is that."""
    torch.manual_seed(2)
    with pytest.MonkeyPatch.context() as patch:
        made = ldm.use_tiny_families(tmp_path_factory.mktemp("configs"), patch)
        family = made["sd1"]
        config = json.loads((family.configs / "vae" / "config.json").read_text(encoding="utf-8"))
        return diffusers.AutoencoderKL.from_config(config), family


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_vae_in_a_file_of_its_own_may_have_any_names(spelling, vae, tmp_path):
    from rlr_core.models.stable_diffusion.loading.vae import load_vae

    network, family = vae
    assert any("attentions.0.to_q" in name for name in network.state_dict())
    state = dict(SPELLINGS[spelling](name, value) for name, value in network.state_dict().items())
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "vae.safetensors")
    assert same_vae(load_vae(tmp_path / "vae.safetensors", family, torch.float32), network)


# folders in shards


@pytest.mark.parametrize("variant", [None, "fp16", "bf16", "ema"])
def test_a_folder_may_be_in_shards_of_any_variant(variant, whole, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    unet = diffusers.UNet2DConditionModel.from_pretrained(whole / "unet")
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", max_shard_size="300KB", variant=variant)
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 1
    assert describe_checkpoint(folder).missing == ()
    assert same_vae(load(folder).unet, unet)


@pytest.mark.parametrize("component", ["vae", "text_encoder"])
def test_other_parts_may_be_of_a_variant_too(component, whole, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    for file in list((folder / component).glob("*.safetensors")):
        file.rename(file.with_name(file.name.replace(".safetensors", ".bf16.safetensors")))
    assert describe_checkpoint(folder).missing == ()
    expected = {each.name: each.network for each in load(whole).components}[component]
    assert same_vae({each.name: each.network for each in load(folder).components}[component], expected)


def test_what_describes_and_what_loads_agree_on_a_shard_that_is_missing(whole, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    unet = diffusers.UNet2DConditionModel.from_pretrained(whole / "unet")
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", max_shard_size="300KB", variant="fp16")
    shards = sorted((folder / "unet").glob("*-of-*.safetensors"))
    shards[0].unlink()
    for look in (describe_checkpoint, load):
        with pytest.raises(CheckpointError, match=f"lacks {shards[0].name}"):
            look(folder)
    index = next((folder / "unet").glob("*.json.*"), None) or next((folder / "unet").glob("*index*.json"))
    for text in ("{}", '{"weight_map": {"a": "../b.safetensors"}}', '{"weight_map": {"a": 1}}'):
        index.write_text(text)
        with pytest.raises(CheckpointError, match="names no files"):
            describe_checkpoint(folder)


# networks that were made smaller

SMALLER = {
    "SSD-1B": (2048, {4: 2, 5: 2, 7: 4, 8: 4}),
    "Segmind Vega": (2048, {4: 1, 5: 1, 7: 2, 8: 2}),
    "KOALA 1B": (2048, {3: 2, 5: 6}),
    "KOALA 700M": (2048, {3: 2, 5: 5}),
    "BK-SDM": (768, {1: 1, 3: 1, 5: 1}),
}


@pytest.mark.parametrize("name", SMALLER)
def test_a_smaller_network_is_told_by_its_name(name, tmp_path):
    width, depths = SMALLER[name]
    start = "model.diffusion_model.input_blocks."
    state = {
        f"{start}{block}.1.transformer_blocks.{number}.attn2.to_k.weight": torch.zeros(1, width)
        for block, depth in depths.items()
        for number in range(depth)
    }
    save_file({**state, f"{start}0.0.weight": torch.zeros(1, 4, 3, 3)}, tmp_path / "a.safetensors")
    for look in (describe_checkpoint, load):
        with pytest.raises(CheckpointError, match=name):
            look(tmp_path / "a.safetensors")
