"""LoRA files of every format: exact round trips, and what other programs make of them."""

from __future__ import annotations

import json
import re
from itertools import pairwise, permutations
from pathlib import Path

import loras
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")

from rlr_core.errors import CheckpointError
from rlr_core.families import FAMILIES, SD1, SDXL
from rlr_core.families.stable_diffusion.lora import FORMATS
from rlr_core.families.stable_diffusion.stems import TEXT, UNET, read_stem
from rlr_core.lora import LayerWeights, LoraWeights, Place, read_lora, write_lora
from rlr_core.lora.encoding import encode
from rlr_core.lora.formats import decode
from rlr_core.lora.info import lora_report

DTYPES = torch.float32, torch.float16, torch.bfloat16
OUTPUT = "transformer_blocks.0.attn2.to_out.0"
QUERY = "transformer_blocks.0.attn1.to_q"


def assert_same(one: LoraWeights, other: LoraWeights) -> None:
    assert one.keys() == other.keys()
    for place, layer in one.items():
        theirs = other[place]
        assert layer.alpha == theirs.alpha, place
        for mine, his in (
            (layer.down, theirs.down),
            (layer.up, theirs.up),
            (layer.magnitude, theirs.magnitude),
        ):
            assert (mine is None) == (his is None), place
            assert mine is None or (mine.dtype == his.dtype and torch.equal(mine, his)), place


# names


@pytest.mark.parametrize("family", loras.FAMILIES)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_layer_of_a_full_size_checkpoint_has_a_name_that_is_read_back(family, kind):
    places = loras.shapes(family)
    stems = {FAMILIES[family].lora.stem(place, kind): place for place in places}
    assert len(stems) == len(places), "no two layers share a name"
    for stem, place in stems.items():
        assert read_stem(stem) == (kind, place)


def test_names_that_hosts_know():
    expected = {
        ("kohya", "sd1", Place(UNET, "up_blocks.0.upsamplers.0.conv")): "lora_unet_up_blocks_0_upsamplers_0_conv",
        ("kohya", "sdxl", Place(TEXT, "text_model.encoder.layers.3.mlp.fc1")): "lora_te1_text_model_encoder_layers_3_mlp_fc1",
        ("kohya", "sdxl", Place(UNET, "up_blocks.0.upsamplers.0.conv")): "lora_unet_output_blocks_2_2_conv",
        ("comfyui", "sd1", Place(UNET, "up_blocks.0.upsamplers.0.conv")): "diffusion_model.output_blocks.2.1.conv",
        ("comfyui", "sdxl", Place(UNET, "up_blocks.0.upsamplers.0.conv")): "diffusion_model.output_blocks.2.2.conv",
        ("comfyui", "sd1", Place(UNET, "down_blocks.0.resnets.1.conv2")): "diffusion_model.input_blocks.2.0.out_layers.3",
    }  # fmt: skip
    for (kind, family, place), stem in expected.items():
        assert FAMILIES[family].lora.stem(place, kind) == stem


@pytest.mark.parametrize(
    ("stem", "path"),
    [
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", f"down_blocks.1.attentions.0.{QUERY}"),
        ("lora_unet_middle_block_1_proj_in", "mid_block.attentions.0.proj_in"),
        ("lora_unet_output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_label_emb_0_2", "add_embedding.linear_2"),
        ("unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q", f"up_blocks.1.attentions.0.{QUERY}"),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out", f"mid_block.attentions.0.{OUTPUT}"),
        ("text_encoder.text_model.encoder.layers.0.self_attn.to_out", "text_model.encoder.layers.0.self_attn.out_proj"),
        ("base_model.model.mid_block.attentions.0.proj_out", "mid_block.attentions.0.proj_out"),
    ],
)  # fmt: skip
def test_other_spellings_are_read(stem, path):
    found = read_stem(stem)
    assert found and found[1] == Place(TEXT if path.startswith("text") else UNET, path)


@pytest.mark.parametrize(
    "stem",
    ["lora_unet_nonsense", "lora_unet_input_blocks_5_2_proj_in", "unet.a.b", "text_encoder.down_blocks.0", "", "lora_unet_"],
)  # fmt: skip
def test_other_names_are_not_understood(stem):
    assert read_stem(stem) is None


# round trips


@pytest.mark.parametrize("family", loras.FAMILIES)
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("seed", range(4))
def test_all_formats_say_the_same_to_the_last_bit(family, dora, seed):
    """Random layers of all networks and kinds, random ranks and alphas, through every order of the three formats."""
    weights = loras.random_lora(family, seed, count=24, dora=dora)
    weights = {place: layer.to(DTYPES[j % 3]) for j, (place, layer) in enumerate(weights.items())}
    for order in permutations(FORMATS):
        state, facts = encode(weights, order[0], FAMILIES[family].lora)
        for kind, following in pairwise([*order, order[0]]):
            read_kind, found = decode(state, facts, "file", FAMILIES[family].lora)
            assert read_kind == kind
            assert_same(found, weights)
            state, facts = encode(found, following, FAMILIES[family].lora)
    kohya = [encode(each, "kohya", FAMILIES[family].lora)[0].keys() for each in (weights, found)]
    assert kohya[0] == kohya[1]


@pytest.mark.parametrize("family", loras.FAMILIES)
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_files_say_the_same_to_the_last_bit(family, kind, dtype, tmp_path):
    weights = loras.random_lora(family, 9, count=12)
    halved = {place: layer.to(dtype) for place, layer in weights.items()}
    file = tmp_path / "a LoRA ü.safetensors"
    write_lora(file, weights, {"rlr.reward": "r"}, kind=kind, family=FAMILIES[family].lora, dtype=dtype)
    read = read_lora(file)
    assert read.kind == kind and read.family == FAMILIES[family].lora
    assert_same(read.weights, halved)
    assert read.metadata["rlr.reward"] == "r"


def test_names_in_metadata_are_those_of_the_family(tmp_path):
    expected = {
        "sd1": ("stable-diffusion-v1/lora", "sd_v1", "False"),
        "sd2": ("stable-diffusion-v2-512/lora", "sd_v2", "True"),
        "sdxl": ("stable-diffusion-xl-v1-base/lora", "sdxl_base_v1-0", "False"),
    }
    for family, facts in expected.items():
        file = tmp_path / f"{family}.safetensors"
        write_lora(file, loras.random_lora(family, 1, count=3), {}, family=FAMILIES[family].lora)
        told = read_lora(file).metadata
        assert tuple(told[k] for k in ("modelspec.architecture", "ss_base_model_version", "ss_v2")) == facts


def test_folding_keeps_the_effect_and_needs_no_alpha():
    layer = loras.random_layer((6, 5), 4, 1.7, torch.Generator().manual_seed(0))
    folded = layer.folded()
    assert folded.scale == 1
    torch.testing.assert_close(folded.delta(), layer.delta())
    assert not torch.equal(folded.up, layer.up)


def test_rslora_of_peft_is_understood():
    layer = loras.random_layer((6, 5), 4, 3.0, torch.Generator().manual_seed(0))
    state, facts = encode({Place(UNET, "mid_block.attentions.0.proj_in"): layer}, "diffusers", SD1.lora)
    told = json.loads(facts["lora_adapter_metadata"]) | {"unet.use_rslora": True}
    _, found = decode(state, {"lora_adapter_metadata": json.dumps(told)}, "file", SD1.lora)
    assert next(iter(found.values())).scale == pytest.approx(3 / 4**0.5)


def test_without_alpha_it_is_the_rank():
    layer = loras.random_layer((6, 5), 4, 3.0, torch.Generator().manual_seed(0))
    state, _ = encode({Place(UNET, "mid_block.attentions.0.proj_in"): layer}, "diffusers", SD1.lora)
    with pytest.warns(UserWarning, match="does not tell the scale"):
        _, found = decode(state, {}, "file", SD1.lora)
    assert next(iter(found.values())).alpha == 4


# what is refused


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["lora_unet_mid_block_attentions_0_proj_in.hada_w1_a"], "has tensors .hada_w1_a"),
        (["lora_unet_mid_block_attentions_0_proj_in.a1.weight"], "is a GLoRA"),
        (["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"], "a LoRA for Stable Diffusion 3 or FLUX"),
        (["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"], "a LoRA for FLUX"),
        (["diffusion_model.blocks.0.cross_attn_q.lora_A.weight"], "a LoRA for Wan"),
        (["first_stage_model.encoder.conv_in.weight"], "0 of its 1 tensors"),
        ([], "0 of its 0 tensors"),
    ],
)  # fmt: skip
def test_other_files_are_refused_by_name(keys, message, tmp_path):
    save_file({key: torch.ones(2, 2) for key in keys}, tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read_lora(tmp_path / "file.safetensors")


STEM = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({".lora_up.weight": None}, "is incomplete"),
        ({".lora_up.weight": torch.ones(6, 3)}, "has tensors"),
        ({".lora_up.weight": torch.ones(6, 4, 3, 3)}, "has tensors"),
        ({".lora_up.weight": torch.ones(6, 4, dtype=torch.int32)}, "numbers of the type I32"),
        ({".lora_up.weight": torch.ones(6, 4, dtype=torch.complex64)}, "numbers of the type C64"),
        ({".alpha": torch.tensor(1j)}, "numbers of the type C64"),
        ({".alpha": torch.tensor(1e300, dtype=torch.float64)}, "no usable alpha"),
        ({".lora_down.weight": torch.ones(0, 5), ".lora_up.weight": torch.ones(6, 0)}, "has tensors"),
        ({".lora_down.weight": torch.ones(5)}, "has tensors"),
        ({".lora_down.weight": torch.ones(5000, 1), ".lora_up.weight": torch.ones(1, 5000)}, "rank of 5000"),
        ({".alpha": torch.ones(3)}, "no usable alpha"),
        ({".alpha": torch.tensor(float("nan"))}, "no usable alpha"),
        ({".dora_scale": torch.ones(1, 7)}, "DoRA norms"),
        ({".lora_A.weight": torch.ones(4, 5)}, "two tensors"),
    ],
)
def test_tensors_that_make_no_lora(change, message, tmp_path):
    state = {
        STEM + end: torch.ones(size)
        for end, size in {".lora_down.weight": (4, 5), ".lora_up.weight": (6, 4)}.items()
    }
    state |= {STEM + end: value for end, value in change.items() if value is not None}
    state = {key: value for key, value in state.items() if change.get(key.removeprefix(STEM), 0) is not None}
    file = tmp_path / "file.safetensors"
    save_file(state, file)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_lora(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "text", [
        "no json", "[" * 50_000, "[1]", '{"unet.alpha_pattern": 3, "unet.lora_alpha": "x"}', '{"unet.lora_alpha": NaN}',
        '{"unet.lora_alpha": 1e300}', '{"unet.lora_alpha":1' + "0" * 400 + "}",
        json.dumps({"unet.alpha_pattern": {str(k): 1 for k in range(6000)}}),
    ],
)  # fmt: skip
def test_hostile_adapter_metadata(text, tmp_path):
    layer = loras.random_layer((6, 5), 4, 3.0, torch.Generator().manual_seed(0))
    state, _ = encode({Place(UNET, "mid_block.attentions.0.proj_in"): layer}, "diffusers", SD1.lora)
    save_file(state, tmp_path / "file.safetensors", metadata={"lora_adapter_metadata": text})
    if text == "[1]":
        with pytest.warns(UserWarning, match="does not tell the scale"):
            assert read_lora(tmp_path / "file.safetensors").weights
    else:
        with pytest.raises(
            CheckpointError, match=r"no usable alpha|damaged metadata|too many parts|beyond 64 bits"
        ):
            read_lora(tmp_path / "file.safetensors")


# info


def test_info_tells_everything(tmp_path):
    weights = loras.random_lora("sdxl", 2, count=40)
    file = tmp_path / "x.safetensors"
    write_lora(file, weights, {"rlr.reward": "härte"}, family=SDXL.lora, dtype=torch.float16)
    text = lora_report(file)
    for word in (
        "kohya",
        "Stable Diffusion XL",
        "text_encoder_2",
        "float16",
        "attention",
        "rlr.reward: härte",
        "finite",
    ):
        assert word in text
    norms = torch.stack([layer.to(torch.float16).delta().norm() for layer in weights.values()])
    told = re.search(r"norm: +(\S+) in all; the largest is (\S+), of", text)
    assert told and float(told[1]) == pytest.approx(float(norms.norm()), rel=1e-3)
    assert float(told[2]) == pytest.approx(float(norms.max()), rel=1e-3)


def test_info_of_a_broken_and_of_an_empty_lora(tmp_path):
    layer = LayerWeights(torch.ones(2, 5), torch.zeros(6, 2), 2.0)
    file = tmp_path / "x.safetensors"
    for value, word in ((0.0, "0 everywhere"), (float("nan"), "broken: NaN or infinity in 1 layers")):
        layer.up[0, 0] = value
        save_file(encode({Place(UNET, "mid_block.attentions.0.proj_in"): layer}, "kohya", SD1.lora)[0], file)
        assert word in lora_report(file)


def test_tensors_have_the_names_that_sd_scripts_writes(tmp_path):
    file: Path = tmp_path / "x.safetensors"
    write_lora(
        file,
        {
            Place(UNET, "mid_block.attentions.0.proj_in"): LayerWeights(
                torch.ones(2, 5), torch.ones(6, 2), 1.5
            )
        },
        {},
        family=SD1.lora,
    )
    state = load_file(file)
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        f"{STEM}.lora_down.weight": (2, 5), f"{STEM}.lora_up.weight": (6, 2), f"{STEM}.alpha": ()
    }  # fmt: skip
    with safe_open(file, "pt") as tensors:
        assert tensors.metadata()["ss_network_alpha"] == "1.5"
