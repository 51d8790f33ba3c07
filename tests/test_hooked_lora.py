"""A LoRA by forward hooks does what the one through peft does, in any network that has weights, and leaves no trace."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import build_checkpoint
from torch import nn

from rlr_core.config import LoraConfig
from rlr_core.errors import CheckpointError, ConfigError
from rlr_core.families import SD1, Component, GenericFamily, Place, Role
from rlr_core.lora import InjectedLora, inject, load_lora, write_lora
from rlr_core.lora.hooked_lora import HookedLora
from rlr_core.lora.injection import default_kind
from rlr_core.lora.peft_lora import PeftLora
from rlr_core.models import StableDiffusion, load_model

CONFIGS = {
    "attention": LoraConfig(rank=3, alpha=1.7),
    "all, text encoder": LoraConfig(rank=2, alpha=5.0, targets="all", text_encoder=True),
    "DoRA": LoraConfig(rank=2, alpha=1.0, targets="all", dora=True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


def load(folder: Path, dtype: torch.dtype = torch.float32) -> StableDiffusion:
    return load_model(str(folder), device="cpu", dtype=dtype)  # pyright: ignore[reportReturnType]


def trained(lora: InjectedLora) -> InjectedLora:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in lora.parameters:
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return lora


def output(model: StableDiffusion) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x, tokens = (
        torch.randn(2, 4, 8, 8, generator=generator),
        model.tokens.tokenize(["red cat", "dog"], ["bad"] * 2),
    )
    level = model.schedule(10).level(torch.tensor([2, 7]))
    return model.denoiser(2.0)(x, level, model.tokens.embed(tokens)).noise


def with_gradients(folder: Path, kind: type[InjectedLora], config: LoraConfig, dtype: torch.dtype) -> Any:
    model = load(folder, dtype)
    lora = trained(inject(model, config, 5, kind))
    out = output(model)
    gradients = torch.autograd.grad(out.float().square().sum(), lora.parameters)
    with torch.no_grad():
        with lora.scaled(0.3):
            some = output(model)
        with lora.disabled():
            none = output(model)
    return lora, out.detach(), some, none, gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_hooks_do_what_peft_does(folder, name, dtype):
    """Outputs at three strengths, and gradients; in plain LoRAs to the bit."""
    theirs, ours = (with_gradients(folder, kind, CONFIGS[name], dtype) for kind in (PeftLora, HookedLora))
    limit = (1e-1 if dtype == torch.bfloat16 else 1e-5) if CONFIGS[name].dora else 0.0
    outputs, gradients = zip(ours[1:4], theirs[1:4], strict=True), zip(ours[4], theirs[4], strict=True)
    rounded = CONFIGS[name].dora and dtype == torch.bfloat16  # its gradients are mostly rounding
    for mine, his in [*outputs, *([] if rounded else gradients)]:
        assert (mine.flatten() - his.flatten()).norm() <= limit * his.norm()
    assert (ours[1] - ours[3]).norm() > 0.05 * ours[3].norm(), "it has an effect"
    assert ours[0].state_dict().keys() == theirs[0].state_dict().keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_eject_leaves_no_trace(folder, name):
    model = load(folder)
    networks = [component.network for component in model.components]
    before, flags = output(model), [p.requires_grad for network in networks for p in network.parameters()]
    hooks = [len(module._forward_hooks) for network in networks for module in network.modules()]
    lora = trained(inject(model, CONFIGS[name], 5, HookedLora))
    assert not torch.equal(output(model), before)
    lora.eject()
    assert torch.equal(output(model), before)
    assert [len(m._forward_hooks) for network in networks for m in network.modules()] == hooks
    assert [p.requires_grad for network in networks for p in network.parameters()] == flags


def test_two_in_one_network_add_up_and_leave_one_by_one(folder):
    model = load(folder)
    base = output(model)
    first = trained(inject(model, LoraConfig(rank=2), 1, HookedLora))
    alone = output(model)
    second = trained(inject(model, LoraConfig(rank=3, alpha=4.0), 2, HookedLora))
    assert not torch.equal(output(model), alone)
    first.eject()
    second.eject()
    assert torch.equal(output(model), base)


def test_a_file_of_one_kind_goes_into_the_other(folder, tmp_path):
    model, file = load(folder), tmp_path / "lora.safetensors"
    lora = trained(inject(model, CONFIGS["all, text encoder"], 5, HookedLora))
    expected = output(model).detach()
    write_lora(file, lora.weights(), {}, family=SD1.lora)
    lora.eject()
    for kind in (PeftLora, HookedLora):
        again = load_lora(file, model, kind)
        assert torch.equal(output(model), expected)
        again.eject()


class Wrapped(nn.Module):
    """A linear layer of a host: no class of torch's, and its weight may be of another type than what it computes."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.in_features, self.out_features = inside, outside
        self.weight = nn.Parameter(torch.randn(outside, inside).to(torch.float8_e4m3fn), requires_grad=False)
        self.bias = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.to(x.dtype).T


def host_model(*extra: tuple[str, nn.Module]) -> SimpleNamespace:
    network = nn.ModuleDict(
        {"attn_q": Wrapped(4, 6), "attn_k": nn.Linear(4, 6), "norm": nn.LayerNorm(4), **dict(extra)}
    )
    family = GenericFamily("toy", "Toy", "toy")
    return SimpleNamespace(components=[Component("transformer", Role.DENOISER, network)], lora_family=family)


def test_layers_are_known_by_what_they_have():
    model = host_model()
    lora = trained(inject(model, LoraConfig(rank=2, targets="attention"), 0, HookedLora))
    assert set(lora.sizes) == {Place("transformer", "attn_q"), Place("transformer", "attn_k")}
    layer, x = model.components[0].network["attn_q"], torch.randn(3, 4)
    down, up = lora.parameters[:2]
    expected = x @ layer.weight.float().T + 8 / 2 * x @ down.T @ up.T
    torch.testing.assert_close(layer(x), expected)


def test_peft_refuses_layers_that_it_would_leave_out():
    """Half of what a target names would be trained, and nobody would know."""
    with pytest.raises(CheckpointError, match=r"transformer\.attn_q is a Wrapped, which peft cannot wrap"):
        inject(host_model(), LoraConfig(targets="attention"), 0, PeftLora)


def test_layers_that_a_family_does_not_know_are_an_error(folder):
    """Names of another library: a target would find some layers and miss others."""
    model = load(folder)
    model.unet.add_module("time_projection", nn.Linear(2, 2))
    for kind in (PeftLora, HookedLora):
        with pytest.raises(
            CheckpointError, match=r"the unet has a layer 'time_projection', which no layer of Stable"
        ):
            inject(model, LoraConfig(), 0, kind)


def test_names_of_the_original_layout_are_those_of_diffusers():
    """A host has the UNet under the original names: the same layers are trained, under the same names in files."""
    attention = nn.ModuleDict({"to_q": nn.Linear(2, 2)})
    inner = nn.ModuleList([nn.ModuleDict({"attn1": attention})])
    block = nn.ModuleDict({"proj_in": nn.Linear(2, 2), "transformer_blocks": inner})
    network = nn.Module()
    network.input_blocks = nn.ModuleList([nn.ModuleList(), nn.ModuleList([nn.Identity(), block])])
    model = SimpleNamespace(components=[Component("unet", Role.DENOISER, network)], lora_family=SD1.lora)
    lora = inject(model, LoraConfig(targets="attention+feedforward"), 0, HookedLora)
    assert [place.path for place in lora.sizes] == [
        "down_blocks.0.attentions.0.proj_in",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    ]
    assert "lora_unet_down_blocks_0_attentions_0_proj_in.alpha" in lora.state_dict()


def test_what_hooks_cannot_do_is_refused():
    grouped = host_model(("attn_conv", nn.Conv2d(4, 4, 3, groups=2)))
    with pytest.raises(CheckpointError, match=r"transformer\.attn_conv is a convolution in groups"):
        inject(grouped, LoraConfig(targets="attention"), 0, HookedLora)
    with pytest.raises(
        ConfigError, match=r"lora\.targets = 'attention\+feedforward' for Toy[\s\S]*one of attention, all"
    ):
        inject(host_model(), LoraConfig(targets="attention+feedforward"), 0, HookedLora)
    with pytest.raises(
        ConfigError, match=r"lora\.text_encoder = true for a model whose text encoder is not at hand"
    ):
        inject(host_model(), LoraConfig(targets="all", text_encoder=True), 0, HookedLora)


def test_hooks_are_the_way_without_peft(monkeypatch):
    assert default_kind() is PeftLora
    monkeypatch.setitem(sys.modules, "peft", None)
    assert default_kind() is HookedLora


def test_its_tensors_are_where_the_host_computes_also_where_weights_are_kept_elsewhere():
    kept = SimpleNamespace(components=[Component("transformer", Role.DENOISER, nn.Sequential(nn.Linear(4, 3, device="meta")))],
                           lora_family=GenericFamily("toy", "Toy", "toy"))  # fmt: skip
    lora = inject(kept, LoraConfig(rank=2, targets="all"), 0, partial(HookedLora, device=torch.device("cpu")))
    assert {tensor.device.type for tensor in lora.parameters} == {"cpu"}
