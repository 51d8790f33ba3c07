"""DoRA's norms are those of outputs or of inputs as the layout of the file says, never as a layer's size happens to be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

pytest.importorskip("peft")
pytest.importorskip("diffusers")

import peft

from rlr_core.errors import CheckpointError
from rlr_core.families import SD1, Component, Place, Role
from rlr_core.lora import load_lora, read_lora, write_lora
from rlr_core.lora.merge import merge

PATH = "mid_block.attentions.0.proj_in"
KOHYA = "lora_unet_" + PATH.replace(".", "_")
ORIGINAL = "model.diffusion_model.middle_block.1.proj_in.weight"
TELLING = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
SHAPES = {"square": (6, 6), "wide": (4, 6), "tall": (6, 4), "convolution": (6, 6, 3, 3)}


def lycoris(weight: Tensor, delta: Tensor, norms: Tensor, *, by_output: bool) -> Tensor:
    """`apply_weight_decompose` (LyCORIS 3, `modules/locon.py`; its `wd_on_out`), of W + ΔW."""
    full = weight + delta
    ones = [1] * (full.dim() - 1)
    if by_output:
        found = full.reshape(len(full), -1).norm(dim=1).reshape(len(full), *ones)
    else:
        columns = full.transpose(0, 1).reshape(full.shape[1], -1).norm(dim=1, keepdim=True)
        found = columns.reshape(full.shape[1], *ones).transpose(0, 1)
    return full * (norms / (found + torch.finfo(full.dtype).eps))


def network(module: nn.Module) -> nn.Module:
    """A UNet of one layer."""
    attention = nn.ModuleDict({"proj_in": module})
    return nn.ModuleDict({"mid_block": nn.ModuleDict({"attentions": nn.ModuleList([attention])})})


def layer(shape: tuple[int, ...], *, by_output: bool) -> tuple[Tensor, Tensor, Tensor]:
    """down, up and LyCORIS's norms of a layer of the shape."""
    torch.manual_seed(0)
    ones = [1] * (len(shape) - 2)
    norms = torch.rand(shape[0], 1, *ones) if by_output else torch.rand(1, shape[1], *ones)
    return torch.randn(2, *shape[1:]), torch.randn(shape[0], 2, *ones), norms + 0.5


def written(file: Path, shape: tuple[int, ...], *, by_output: bool) -> tuple[Path, Tensor, Tensor]:
    """A file of LyCORIS with alpha 3; its scaled update of the weight, and the norms."""
    down, up, norms = layer(shape, by_output=by_output)
    state = {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": norms, "alpha": torch.tensor(3.0)}
    save_file({f"{KOHYA}.{name}": value for name, value in state.items()}, file)
    delta = 1.5 * torch.einsum("or,ri...->oi...", up.flatten(1), down)
    return file, delta, norms


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("by_output", [True, False], ids=["outputs", "inputs"])
@pytest.mark.parametrize("kind", ["", "kohya", "comfyui"])
def test_a_dora_of_lycoris_has_the_effect_that_lycoris_gives_it(shape, by_output, kind, tmp_path):
    file, delta, norms = written(tmp_path / "lora.safetensors", shape, by_output=by_output)
    if kind:
        write_lora(tmp_path / "new.safetensors", read_lora(file).weights, {}, family=SD1.lora, kind=kind)
        file = tmp_path / "new.safetensors"
    weight, out = torch.randn(shape), tmp_path / "out.safetensors"
    save_file({ORIGINAL: weight, TELLING: torch.zeros(4, 768)}, tmp_path / "base.safetensors")
    merge(file, tmp_path / "base.safetensors", out, 1.0)
    expected = lycoris(weight, delta, norms, by_output=by_output)
    torch.testing.assert_close(load_file(out)[ORIGINAL], expected, atol=1e-5, rtol=1e-5)


def test_norms_of_inputs_are_refused_where_only_those_of_outputs_are_known(tmp_path):
    file, _, _ = written(tmp_path / "lora.safetensors", (6, 6), by_output=False)
    with pytest.raises(CheckpointError, match="a norm for each input"):
        write_lora(tmp_path / "d.safetensors", read_lora(file).weights, {}, family=SD1.lora, kind="diffusers")
    components = [Component("unet", Role.DENOISER, network(nn.Linear(6, 6)))]
    model = SimpleNamespace(components=components, lora_family=SD1.lora, name="x")
    with pytest.raises(CheckpointError, match="rlr lora merge"):
        load_lora(file, model)


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3, 3)], ids=["linear", "convolution"])
def test_peft_always_has_norms_of_outputs(shape, tmp_path):
    """Those of a convolution it writes as (1, out, 1, 1), which LyCORIS writes for inputs."""
    model = network(nn.Linear(6, 6) if len(shape) == 2 else nn.Conv2d(6, 6, 3))
    config = peft.LoraConfig(
        r=2, lora_alpha=3, use_dora=True, target_modules=["proj_in"], init_lora_weights=False
    )
    adapted = peft.get_peft_model(model, config)
    for name, value in adapted.named_parameters():
        if "magnitude" in name:
            value.data *= torch.linspace(0.5, 2, 6).reshape([-1 if n == 6 else 1 for n in value.shape])
    adapted.save_pretrained(tmp_path)
    weight = model.get_submodule(PATH).base_layer.weight.detach().clone()
    merged = adapted.merge_and_unload().get_submodule(PATH).weight.detach()
    found = read_lora(tmp_path / "adapter_model.safetensors").weights[Place("unet", PATH)]
    assert not found.by_input
    torch.testing.assert_close(found.applied(weight, 1.0), merged, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 5), (2, 3), (6,), (1, 1), (1, 2, 3), (4, 4)], ids=str)
def test_norms_that_are_of_neither_are_refused(shape, tmp_path):
    down, up, _ = layer((4, 6), by_output=True)
    state = {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": torch.ones(shape)}
    save_file({f"{KOHYA}.{name}": value for name, value in state.items()}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="DoRA norms"):
        read_lora(tmp_path / "x.safetensors")


def test_a_convolution_is_not_merged_into_a_linear_layer_of_as_many_numbers(tmp_path):
    file, _, _ = written(tmp_path / "lora.safetensors", (6, 4, 3, 3), by_output=True)
    save_file({ORIGINAL: torch.ones(6, 36), TELLING: torch.zeros(4, 768)}, tmp_path / "base.safetensors")
    with pytest.raises(CheckpointError, match=r"has the shape \(6, 36\)"):
        merge(file, tmp_path / "base.safetensors", tmp_path / "out.safetensors", 1.0)
