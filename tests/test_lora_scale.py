"""A LoRA's scale is read from where it is, as peft reads it, or said not to be known."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

pytest.importorskip("peft")
pytest.importorskip("diffusers")

import peft
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from rlr_core.cli.main import main
from rlr_core.errors import CheckpointError
from rlr_core.lora import LoraWeights, Place, read_lora

PLACES = [Place("unet", f"mid_block.attentions.0.{name}") for name in ("proj_in", "proj_out")]
MODEL = "base_model.model."


def network() -> nn.Module:
    """Two layers under the names that a UNet has for them."""
    attention = nn.ModuleDict({"proj_in": nn.Linear(6, 5), "proj_out": nn.Linear(5, 6)})
    model = nn.Module()
    model.mid_block = nn.ModuleDict({"attentions": nn.ModuleList([attention])})
    return model


def peft_folder(folder: Path, **config: Any) -> dict[Place, torch.Tensor]:
    """A folder that peft has saved, and the weights of the merged layers by peft itself, less those of before."""
    torch.manual_seed(0)
    model = network()
    before = {place: model.get_submodule(place.path).weight.detach().clone() for place in PLACES}
    settings = peft.LoraConfig(
        **{"target_modules": ["proj_in", "proj_out"], "init_lora_weights": False, **config}
    )
    adapted = peft.get_peft_model(model, settings)
    adapted.save_pretrained(folder)
    merged = adapted.merge_and_unload()
    return {place: merged.get_submodule(place.path).weight.detach() - before[place] for place in PLACES}


def assert_effects(weights: LoraWeights, expected: dict[Place, torch.Tensor]) -> None:
    assert weights.keys() == expected.keys()
    for place, delta in expected.items():
        torch.testing.assert_close(weights[place].delta(), delta, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"r": 2, "lora_alpha": 16},
        {"r": 4, "lora_alpha": 3, "use_rslora": True},
        {"r": 2, "lora_alpha": 16, "alpha_pattern": {"proj_out": 5}, "rank_pattern": {"proj_out": 3}},
        {"r": 2, "lora_alpha": 8, "alpha_pattern": {r"^mid_block\..*proj_(in|x)": 3, "attentions.0.proj_in": 7}},
        {"r": 2, "lora_alpha": 8, "rank_pattern": {"proj_.ut": 4}, "alpha_pattern": {"proj_o[a-z]+": 2}, "use_rslora": True},
    ],
    ids=["alpha", "rslora", "patterns", "expressions", "expressions-rslora"],
)  # fmt: skip
def test_a_folder_of_peft_has_the_effect_that_peft_gives_it(config, tmp_path):
    expected = peft_folder(tmp_path, **config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_lora(tmp_path / "adapter_model.safetensors")
    assert_effects(found.weights, expected)


def test_a_renamed_file_alone_in_its_folder_keeps_its_config(tmp_path):
    expected = peft_folder(tmp_path, r=2, lora_alpha=16)
    renamed = (tmp_path / "adapter_model.safetensors").rename(tmp_path / "my cat.safetensors")
    assert_effects(read_lora(renamed).weights, expected)


def test_dora_of_peft_keeps_scale_and_norms(tmp_path):
    peft_folder(tmp_path, r=2, lora_alpha=16, use_dora=True)
    layers = read_lora(tmp_path / "adapter_model.safetensors").weights.values()
    assert all(layer.alpha == 16 and layer.magnitude is not None for layer in layers)


@pytest.mark.parametrize("kind", ["kohya", "diffusers", "comfyui"])
def test_converting_keeps_the_scale_of_a_folder_of_peft(kind, tmp_path):
    expected = peft_folder(tmp_path, r=2, lora_alpha=16)
    out = tmp_path / "other" / "converted.safetensors"
    given = [str(tmp_path / "adapter_model.safetensors"), str(out), "--to", kind, "--family", "sd1"]
    assert main(["lora", "convert", *given]) == 0
    assert_effects(read_lora(out).weights, expected)


def bare(folder: Path, metadata: dict[str, str] | None = None) -> Path:
    """A file with neither alpha nor config."""
    state = {
        f"unet.{PLACES[0].path}.lora_A.weight": torch.ones(2, 6),
        f"unet.{PLACES[0].path}.lora_B.weight": torch.ones(5, 2),
    }
    save_file(state, folder / "bare.safetensors", metadata=metadata)
    return folder / "bare.safetensors"


def test_a_scale_that_is_not_told_is_said_aloud(tmp_path, capsys):
    with pytest.warns(UserWarning, match=r"does not tell the scale of 1 of its 1 layers"):
        read_lora(bare(tmp_path))
    main(["lora", "convert", str(bare(tmp_path)), str(tmp_path / "out.safetensors"), "--family", "sd1"])
    assert "does not tell the scale" in capsys.readouterr().err


def test_one_layer_of_several_without_alpha_is_said_aloud(tmp_path):
    state = {}
    for place, (down, up) in zip(PLACES, (((2, 6), (5, 2)), ((2, 5), (6, 2))), strict=True):
        stem = "lora_unet_" + place.path.replace(".", "_")
        state |= {f"{stem}.lora_down.weight": torch.ones(down), f"{stem}.lora_up.weight": torch.ones(up)}
    save_file(state | {f"{stem}.alpha": torch.tensor(1.0)}, tmp_path / "x.safetensors")
    with pytest.warns(UserWarning, match="scale of 1 of its 2 layers"):
        read_lora(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 7}, "has the rank 2, and 7 by its config"),
        ({"peft_type": "LOHA"}, "peft's type LOHA"),
        ({"init_lora_weights": "pissa_niter_4"}, "a checkpoint that pissa_niter_4 has changed"),
        ({"init_lora_weights": "olora"}, "a checkpoint that olora has changed"),
        ({"init_lora_weights": "corda"}, "a checkpoint that corda has changed"),
        ({"init_lora_weights": "loftq"}, "a checkpoint that loftq has changed"),
        ({"init_lora_weights": "lora_ga"}, "a checkpoint that lora_ga has changed"),
        ({"use_qalora": True}, "with use_qalora"),
        ({"use_bdlora": {"nblocks": 2}}, "with use_bdlora"),
        ({"kasa_config": {"beta": 1.0}}, "with kasa_config"),
        ({"arrow_config": {"top_k": 3}}, "with arrow_config"),
        ({"alora_invocation_tokens": [1, 2]}, "with alora_invocation_tokens"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "with layer_replication"),
        ({"use_dora": True}, "without its norms"),
        ({"alpha_pattern": {"((a+)+)+$": 1}}, "not tried"),
        ({"alpha_pattern": {"(": 1}}, "not tried"),
        ({"lora_alpha": "16"}, "no usable alpha"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["beside", "inside"])
def test_a_config_that_says_something_else_is_refused_by_name(changes, message, where, tmp_path):
    if where == "beside":
        peft_folder(tmp_path, r=2, lora_alpha=16)
        config = tmp_path / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
        file = tmp_path / "adapter_model.safetensors"
    else:
        facts = {f"unet.{name}": value for name, value in {"r": 2, "lora_alpha": 16, **changes}.items()}
        file = bare(tmp_path, {"lora_adapter_metadata": json.dumps(facts)})
    with pytest.raises(CheckpointError, match=message):
        read_lora(file)


OTHER_TYPES = {
    "ADALORA": {"init_r": 2, "target_r": 2, "total_step": 10}, "FOURIERFT": {"n_frequency": 5},
    "HRA": {"r": 2}, "LOHA": {"r": 2}, "LOKR": {"r": 2}, "OFT": {"r": 0, "oft_block_size": 1}, "RANDLORA": {"r": 2},
    "VERA": {"r": 2},
}  # fmt: skip
"""Of peft's types → settings."""


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_what_peft_saves_of_another_type_is_called_so(kind, tmp_path):
    settings = PEFT_TYPE_TO_CONFIG_MAPPING[kind](target_modules=["proj_in", "proj_out"], **OTHER_TYPES[kind])
    peft.get_peft_model(network(), settings).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"is an adapter of peft's type {kind}"):
        read_lora(tmp_path / "adapter_model.safetensors")


def test_a_damaged_config_is_named(tmp_path):
    peft_folder(tmp_path, r=2, lora_alpha=16)
    for text in ("{", "\x00", '{"lora_alpha": null}'):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(CheckpointError):
            read_lora(tmp_path / "adapter_model.safetensors")
