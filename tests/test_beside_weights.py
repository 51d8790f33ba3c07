"""What trainers leave in a file beside its weights is left out with a note; the weights are read as if it were not there."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

pytest.importorskip("peft")
pytest.importorskip("diffusers")

import peft

from rlr_core.cli.main import main
from rlr_core.errors import CheckpointError
from rlr_core.families import SD1, Component, Place, Role
from rlr_core.lora import load_lora, read_lora
from rlr_core.models.tensor_files import open_tensors

PATH = "mid_block.attentions.0.proj_in"
STEM = "lora_unet_" + PATH.replace(".", "_")
PLACE = Place("unet", PATH)
ORIGINAL = "model.diffusion_model.middle_block.1.proj_in.weight"
TELLING = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"


def kohya(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    torch.manual_seed(0)
    down, up = torch.randn(2, 6).to(dtype), torch.randn(5, 2).to(dtype)
    return {
        f"{STEM}.lora_down.weight": down,
        f"{STEM}.lora_up.weight": up,
        f"{STEM}.alpha": torch.tensor(3.0),
    }


def update(state: dict[str, Tensor]) -> Tensor:
    down, up = (state[f"{STEM}.lora_{name}.weight"].float() for name in ("down", "up"))
    return 1.5 * up @ down


EXTRAS = {
    "an embedding of OneTrainer": "bundle_emb.my-style.string_to_param",
    "an embedding of both XL's encoders": "bundle_emb.my-style.clip_g",
    "an embedding": "emb_params",
    "moments": f"{STEM}.lora_down.weight.exp_avg_sq",
    "an optimizer": "optimizer.state.0.step",
    "a schedule": "lr_scheduler.last_epoch",
    "a counter": "global_step",
    "positions": "text_model.embeddings.position_ids",
}


@pytest.mark.parametrize("name", EXTRAS.values(), ids=EXTRAS)
def test_what_is_no_part_of_a_lora_is_left_out_with_a_note(name, tmp_path):
    state = kohya()
    save_file({**state, name: torch.ones(3, dtype=torch.int64)}, tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match=r"1 of its 4 tensors are no part of the LoRA") as caught:
        found = read_lora(tmp_path / "a.safetensors")
    assert len(caught) == 1 and name in str(caught[0].message)
    assert list(found.weights) == [PLACE] and found.kind == "kohya"
    torch.testing.assert_close(found.weights[PLACE].delta(), update(state))


def test_the_command_line_says_it_and_goes_on(tmp_path, capsys):
    save_file({**kohya(), "bundle_emb.x.vector": torch.ones(3)}, tmp_path / "a.safetensors")
    out = tmp_path / "b.safetensors"
    given = [str(tmp_path / "a.safetensors"), str(out), "--to", "comfyui", "--family", "sd1"]
    assert main(["lora", "convert", *given]) == 0
    assert "embeddings, such as bundle_emb.x.vector" in capsys.readouterr().err
    assert not any("bundle" in name for name in load_file(out))


@pytest.mark.parametrize("name", [f"{STEM}.lora_mid.weight", "something.weight", f"{STEM}.diff_b"])
def test_what_may_be_a_part_of_it_is_still_refused(name, tmp_path):
    save_file({**kohya(), name: torch.ones(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError):
        read_lora(tmp_path / "a.safetensors")


def test_an_embedding_alone_is_no_lora(tmp_path):
    save_file({"emb_params": torch.ones(2, 768)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="0 of its 1 tensors"):
        read_lora(tmp_path / "a.safetensors")


@pytest.mark.parametrize("adapter", ["default", "default_0", "my-style"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_an_adapter_may_have_any_name(adapter, dora, tmp_path):
    """peft's own module, whose state is saved as it is: with the adapter's name in the keys."""
    attention = nn.ModuleDict({"proj_in": nn.Linear(6, 5)})
    model = nn.ModuleDict({"mid_block": nn.ModuleDict({"attentions": nn.ModuleList([attention])})})
    config = peft.LoraConfig(r=2, lora_alpha=2, use_dora=dora, target_modules=["proj_in"], init_lora_weights=False)  # fmt: skip
    adapted = peft.get_peft_model(model, config, adapter_name=adapter)
    weight = model.get_submodule(PATH).base_layer.weight.detach().clone()
    state = {
        f"unet.{name.removeprefix('base_model.model.')}": value.detach().clone()
        for name, value in adapted.named_parameters()
        if "lora" in name
    }
    save_file({**state, f"unet.{PATH}.alpha": torch.tensor(2.0)}, tmp_path / "a.safetensors")
    merged = adapted.merge_and_unload().get_submodule(PATH).weight.detach()
    found = read_lora(tmp_path / "a.safetensors").weights[PLACE]
    assert all(adapter in name for name in state)
    torch.testing.assert_close(found.applied(weight, 1.0), merged, atol=1e-5, rtol=1e-5)


def test_several_adapters_in_one_file_are_refused_by_name(tmp_path):
    state = {
        f"unet.{path}.lora_{end}.{name}.weight": torch.ones(2, 2)
        for path, name in ((PATH, "a_0"), (PATH.replace("in", "out"), "b_0"))
        for end in "AB"
    }
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="several LoRAs: a_0, b_0"):
        read_lora(tmp_path / "a.safetensors")


# eight bits


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_a_lora_of_eight_bits_is_told_converted_merged_and_injected(dtype, tmp_path, capsys):
    state, lora, out = kohya(dtype), tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(state, lora)
    assert main(["lora", "info", str(lora)]) == 0
    assert str(dtype).removeprefix("torch.") in capsys.readouterr().out
    assert main(["lora", "convert", str(lora), str(out), "--to", "diffusers", "--family", "sd1"]) == 0
    torch.testing.assert_close(read_lora(out).weights[PLACE].delta(), update(state), rtol=0, atol=0)
    assert (
        main(["lora", "convert", str(lora), str(out), "--dtype", "float16", "--family", "sd1", "--force"])
        == 0
    )
    torch.testing.assert_close(read_lora(out).weights[PLACE].delta(), update(state), rtol=0, atol=0)
    weight, base, merged = torch.randn(5, 6), tmp_path / "base.safetensors", tmp_path / "m.safetensors"
    save_file({ORIGINAL: weight, TELLING: torch.zeros(4, 768)}, base)
    assert main(["lora", "merge", str(lora), str(base), str(merged)]) == 0
    torch.testing.assert_close(load_file(merged)[ORIGINAL], weight + update(state))
    attention = nn.ModuleDict({"proj_in": nn.Linear(6, 5)})
    network: Any = nn.ModuleDict({"mid_block": nn.ModuleDict({"attentions": nn.ModuleList([attention])})})
    model = SimpleNamespace(components=[Component("unet", Role.DENOISER, network)], lora_family=SD1.lora)
    x = torch.randn(3, 6)
    before = network.get_submodule(PATH)(x)
    load_lora(lora, model)
    torch.testing.assert_close(network.get_submodule(PATH)(x), before + x @ update(state).T)


# pickled checkpoints


class ModelCheckpoint:
    """As Lightning leaves it in `callbacks`, by its class and by itself."""

    def __init__(self):
        self.best_model_path, self.monitor = Path("a/b.ckpt"), "loss"


class Run:
    """Something that would run if it were made."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


@pytest.fixture
def lightning(monkeypatch):
    """A library that is there while the file is written, and not when it is read."""
    module = types.ModuleType("pytorch_lightning")
    monkeypatch.setattr(ModelCheckpoint, "__module__", module.__name__)
    module.ModelCheckpoint = ModelCheckpoint
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize(
    "beside",
    [
        lambda: {"callbacks": {ModelCheckpoint: {"best_model_score": torch.tensor(1.0)}}},
        lambda: {"callbacks": [ModelCheckpoint()]},
        lambda: {"hyper_parameters": {"ckpt": Path("x.ckpt"), "model": ModelCheckpoint()}},
        lambda: {"best": np.float64(0.5), "callbacks": {ModelCheckpoint: 1}},
    ],
    ids=["class", "object", "settings", "numpy"],
)
def test_objects_of_other_libraries_in_a_ckpt_are_left_out(beside, lightning, tmp_path, monkeypatch):
    weights = {"model.diffusion_model.input_blocks.0.0.weight": torch.randn(2, 4, 3, 3)}
    torch.save(
        {"state_dict": weights, "global_step": 5, "optimizer_states": [{}], **beside()}, tmp_path / "a.ckpt"
    )
    monkeypatch.delitem(sys.modules, lightning.__name__)
    with pytest.warns(UserWarning, match=r"left out, and not run: .*ModelCheckpoint"):
        found = open_tensors(tmp_path / "a.ckpt", allow_pickle=True)
    assert found.header.tensors.keys() == weights.keys()
    assert all(torch.equal(found.tensors([name])[name], value) for name, value in weights.items())


@pytest.mark.parametrize("beside", [[Run()], [Run(), ModelCheckpoint()]], ids=["alone", "beside Lightning's"])
def test_what_could_run_anything_is_refused_and_does_not(beside, lightning, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.ones(1)}, "callbacks": beside}, "a.ckpt")
    monkeypatch.delitem(sys.modules, lightning.__name__)
    with pytest.raises(CheckpointError, match="holds more than weights"):
        open_tensors(Path("a.ckpt"), allow_pickle=True)
    assert not Path("ran").exists()
