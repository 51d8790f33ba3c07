"""A family and an architecture that are added touch nothing else: trained, planned, read and merged by their own words."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import foreign
import loras
import pixflow
import pytest
import runs
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional

from rlr_core import cli
from rlr_core.config import LoraConfig
from rlr_core.errors import CheckpointError, ConfigError, PlanError
from rlr_core.families import FAMILIES, SD1, SDXL, GenericFamily, Place, lora_families
from rlr_core.families.stable_diffusion.stems import TEXT, UNET
from rlr_core.lora import inject, load_lora, read_lora, write_lora
from rlr_core.lora.hooked_lora import HookedLora
from rlr_core.models import load_model
from rlr_core.models.scan import scan
from rlr_core.planner import check, footprint
from rlr_core.planner.ladder import Unpredictable, ladder
from rlr_core.planner.machine import Machine
from rlr_core.planner.on_meta import AsOn
from rlr_core.planner.rehearsal import Rehearsal
from rlr_core.runs import start

CARD = Machine("cuda", "cuda: a card", "bfloat16")


@pytest.fixture
def file(tmp_path) -> Path:
    """A whole checkpoint of the architecture, which is not registered yet."""
    torch.manual_seed(3)
    state = pixflow.Transformer(16, 2).state_dict()
    (tmp_path / "reward.py").write_text(runs.REWARD, encoding="utf-8")
    save_file({pixflow.PREFIX + name: value for name, value in state.items()}, tmp_path / "größe.safetensors")
    return tmp_path / "größe.safetensors"


@pytest.fixture
def known(monkeypatch) -> None:
    pixflow.registered(monkeypatch)


def load(file: Path, device: str = "cpu", **options):
    return load_model(str(file), device=device, dtype=torch.float32, **options)


def config(file: Path, **overrides):
    settings = {
        "training__iterations": 2,
        "output__evaluation": 0,
        "alarm__pictures": 0,
        "output__previews": 1,
    }
    return runs.config(file.parent, model__checkpoint=str(file), **settings, **overrides)


@pytest.fixture
def trained(file, known, tmp_path) -> Path:
    """A LoRA, of a run with the default of `output.format`."""
    start(config(file), tmp_path / "run")
    return tmp_path / "run" / "rlr-lora.safetensors"


# checkpoints


def test_it_is_described_by_what_it_gives(file, known, capsys):
    runs.rlr("checkpoint", "info", file)
    lines = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["family", "layout", "base resolution", "precision", "missing"]


def test_what_was_refused_is_looked_at_again_when_the_architecture_is_there(file, monkeypatch, tmp_path):
    monkeypatch.setenv("RLR_CACHE", str(tmp_path / "cache"))
    before = scan([tmp_path])
    assert [each.description for each in before] == [None] and "1.x, 2.x or XL" in before[0].problem
    pixflow.registered(monkeypatch)
    assert [each.description.family for each in scan([tmp_path]) if each.description] == ["PixFlow"]


def test_weights_arrive_and_none_are_read_for_a_plan(file, known):
    state, blank = load(file).network.state_dict(), load(file, "meta").network
    written = load_file(file)
    assert all(torch.equal(value, written[pixflow.PREFIX + name]) for name, value in state.items())
    assert all(value.is_meta for value in blank.state_dict().values())


def test_damaged_files_are_refused_by_name(file, known):
    state = load_file(file)
    lacking = {name: value for name, value in state.items() if name != "pixflow.out.bias"}
    save_file(lacking, file)
    assert pixflow.describe(file, pixflow_tensors(file)).missing == (
        f"unet ({len(lacking)} of {len(state)} tensors)",
    )
    for values in (lacking, {**state, "pixflow.out.bias": torch.zeros(3)}):
        save_file(values, file)
        with pytest.raises(
            CheckpointError, match=r"no tensor pixflow\.out\.bias of the shape \(12,\)"
        ) as caught:
            load(file)
        assert str(file) in str(caught.value)


def test_quantised_files_are_refused_by_name(file, known):
    save_file({name: value.to(torch.int8) for name, value in load_file(file).items()}, file)
    with pytest.raises(CheckpointError, match="quantised: its weights are I8"):
        load(file)


def pixflow_tensors(file: Path):
    from rlr_core.models.tensor_files import open_tensors

    return open_tensors(file, allow_pickle=False)


@pytest.mark.parametrize(
    "setting", [{"prediction": "epsilon"}, {"zero_snr": "yes"}, {"vae": "a"}, {"clip_skip": 2}]
)
def test_settings_that_it_does_not_take_are_refused_in_one_place(file, known, setting):
    with pytest.raises(
        ConfigError, match=rf"model\.{next(iter(setting))} = .* for PixFlow, which does not take it"
    ):
        load(file, **setting)


def test_it_needs_no_library_of_stable_diffusions(file, known, tmp_path, monkeypatch):
    folder = tiny.build_checkpoint(tmp_path / "sd")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert load(file).device.type == "cpu"
    with pytest.raises(CheckpointError, match=r"diffusers is not installed"):
        load(folder)


# LoRAs


def test_its_lora_comes_back(trained, file):
    read, model = read_lora(trained), load(file)
    assert read.kind == "kohya" and read.family is pixflow.FAMILY and len(read.weights) == 4
    lora = load_lora(trained, model)
    assert all(torch.equal(layer.up, read.weights[place].up) for place, layer in lora.weights().items())
    with safe_open(trained, "pt") as tensors:
        assert "modelspec.implementation" not in tensors.metadata()


def test_its_lora_goes_through_every_command(trained, file, tmp_path, capsys):
    other, merged, settings = tmp_path / "other.safetensors", tmp_path / "merged.safetensors", []
    runs.rlr("lora", "info", trained)
    assert "PixFlow" in capsys.readouterr().out
    runs.rlr("lora", "convert", trained, other, "--to", "comfyui", "--family", "pixflow")
    assert read_lora(other).kind == "comfyui" and read_lora(other).family is pixflow.FAMILY
    assert (
        cli.main(["lora", "convert", str(trained), str(tmp_path / "x.safetensors"), "--to", "diffusers"]) == 2
    )
    runs.rlr("lora", "merge", other, file, merged)
    before, after = load_file(file), load_file(merged)
    assert sum(not torch.equal(before[name], after[name]) for name in before) == 4
    for name in (f"model.checkpoint={file}", "sampling.steps=2", "model.device=cpu", "model.threads=1"):
        settings += ["--set", name]
    runs.rlr("sample", "a b", "--lora", other, "--out", tmp_path / "painted", *settings)
    start(config(file, lora__start=str(other)), tmp_path / "again")


def test_its_lora_without_metadata_is_told_by_its_names(trained):
    save_file(load_file(trained), trained)
    assert read_lora(trained).family is pixflow.FAMILY


def test_its_lora_is_none_of_stable_diffusions(trained, tmp_path):
    model = load(tiny.build_checkpoint(tmp_path / "sd"))
    with pytest.raises(
        CheckpointError, match=r"0 of its 12 tensors are those of a LoRA for Stable Diffusion 1\.x"
    ):
        load_lora(trained, model)


def test_the_lora_of_a_model_that_a_host_brings_comes_back(tmp_path):
    """Read in the words of the model, whose family is not registered."""
    model, path = foreign.ForeignModel(), tmp_path / "lora.safetensors"
    lora = inject(model, LoraConfig(rank=2), 1, HookedLora)
    for p in lora.parameters:
        torch.nn.init.normal_(p.data)
    write_lora(path, lora.weights(), {}, family=model.lora_family)
    lora.eject()
    again = load_lora(path, model)
    assert all(torch.equal(layer.up, again.weights()[place].up) for place, layer in lora.weights().items())
    with pytest.raises(CheckpointError, match=r"0 of its 24 tensors"):
        read_lora(path)


# a family of an architecture that is there

WIDE = dataclasses.replace(
    SD1,
    lora=dataclasses.replace(
        SD1.lora,
        key="wide",
        title="Wide Diffusion",
        version="wide_v1",
        marks=(),
        widths={"unet": 896, "text_encoder": 896},
        architectures={"epsilon": "wide-diffusion-v1"},
    ),
)


def wide_lora() -> dict[Place, loras.LayerWeights]:
    """SD 1's, with other widths where text is read or made."""
    made = {}
    for place, shape in loras.shapes("sd1").items():
        if place.network == TEXT or place.path.endswith(("attn2.to_k", "attn2.to_v")):
            shape = (shape[0] if place.network == UNET else 896, 896)
            made[place] = loras.random_layer(shape, 1, 1.0, torch.Generator().manual_seed(len(made)))
    return made


@pytest.mark.parametrize("network", [UNET, TEXT])
@pytest.mark.parametrize("metadata", [True, False])
def test_a_family_is_told_by_metadata_and_by_widths_of_all_networks(network, metadata, tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "wide", WIDE)
    path, weights = (
        tmp_path / "lora.safetensors",
        {p: v for p, v in wide_lora().items() if p.network == network},
    )
    write_lora(path, weights, {}, family=WIDE.lora)
    if not metadata:
        save_file(load_file(path), path)
    assert read_lora(path).family is WIDE.lora


def test_a_family_is_told_by_metadata_where_no_layer_tells(tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "wide", WIDE)
    path, place = tmp_path / "lora.safetensors", Place(UNET, "mid_block.attentions.0.proj_in")
    layer = loras.random_layer((5, 5), 1, 1.0, torch.Generator().manual_seed(0))
    write_lora(path, {place: layer}, {}, family=WIDE.lora)
    assert read_lora(path).family is WIDE.lora
    save_file(load_file(path), path, metadata={"ss_base_model_version": "sdxl_of_a_fork"})
    assert read_lora(path).family is SDXL.lora
    save_file(load_file(path), path)
    assert read_lora(path).family is None


def test_what_metadata_say_does_not_outweigh_sizes(tmp_path):
    """Metadata are copied from file to file."""
    path = tmp_path / "lora.safetensors"
    weights = loras.random_lora("sdxl", 1, count=300)
    write_lora(path, weights, SD1.lora.metadata("epsilon"), family=SDXL.lora)
    assert read_lora(path).metadata["ss_base_model_version"] == "sd_v1"
    assert read_lora(path).family is SDXL.lora


def test_every_family_reads_what_it_writes_and_tells_its_own_metadata():
    places = {key: loras.shapes(key) for key in FAMILIES}
    for key, family in lora_families().items():
        for kind in family.formats:
            place = next(iter(places[key]))
            assert family.read(family.stem(place, kind)) == (kind, place)
        others = [other for other in lora_families().values() if other is not family]
        told = family.metadata("epsilon")
        assert family.writes(told) and not any(other.writes(told) for other in others)


def test_a_network_of_another_name_is_noticed():
    with pytest.raises(AssertionError, match="called unet"):
        GenericFamily("a", "A", "a").place("unet", pixflow.Role.DENOISER, "x")


# plans


@pytest.mark.parametrize("shapes", [(2,), (3, 2), (2, 3, 2), (2, 2, 3, 2), (5, 2, 2, 3, 2)], ids=str)
def test_attention_of_any_rank_is_rehearsed(shapes):
    """torch's kernel, which stands for it, and its counter of operations want four dimensions."""
    *batch, length, width = (1, *shapes) if len(shapes) == 1 else shapes
    query = torch.empty(*batch, length, width, device="meta", requires_grad=True)
    key = torch.empty(*batch, 7, width, device="meta")
    with Rehearsal() as seen, AsOn("cuda"):
        out = functional.scaled_dot_product_attention(query, key, key.repeat_interleave(2, -1))
        out.sum().backward()
    assert out.shape == (*batch, length, 2 * width) and query.grad.shape == query.shape
    assert seen.flops > 2 * torch.Size(batch).numel() * length * 7 * 3 * width


def test_grouped_attention_is_rehearsed():
    query, key = torch.empty(1, 4, 3, 2, device="meta"), torch.empty(1, 2, 5, 2, device="meta")
    with Rehearsal(), AsOn("cuda"):
        assert functional.scaled_dot_product_attention(query, key, key, enable_gqa=True).shape == query.shape


def test_a_plan_proposes_only_what_the_model_takes(file, known):
    plans = list(ladder(config(file, estimator__chunk=4), CARD))
    assert len(plans) > 1 and plans[1].settings[:2] == ["memory.painted=1", "memory.offload=text"]
    offered = {setting.split("=")[0] for plan in plans for setting in plan.settings}
    assert offered.isdisjoint({"memory.decoder", "memory.checkpoint_denoiser", "memory.autocast"})


@pytest.fixture
def foreign_plans(monkeypatch) -> None:
    """Plans are for a model that takes no setting of [memory]."""

    def blank(settings, device):
        model = foreign.ForeignModel()
        model.network.to(device)
        model.colours, model.device = model.colours.to(device), device
        return model

    monkeypatch.setattr(footprint, "load_configured", blank)
    monkeypatch.setattr(check, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(check, "this_machine", lambda device: CARD)


def test_a_model_that_takes_no_savings_has_a_ladder_and_a_next_step(file, foreign_plans):
    settings = foreign.foreign_config(
        f"{file.parent / 'reward.py'}:red", training__batch_size=4, estimator__chunk=4, memory__plan="auto"
    )
    assert all(
        "memory" not in plan.changes or set(plan.changes["memory"]) == {"painted"}
        for plan in ladder(settings, CARD)
    )
    assert check.smaller(settings).settings[0] == "memory.painted=1"


def test_a_model_that_cannot_be_rehearsed_is_no_traceback(file, known, foreign_plans, monkeypatch, capsys):
    def fails(self, x, time, text):
        raise NotImplementedError("no kernel for meta")

    monkeypatch.setattr(foreign.Transformer, "forward", fails)
    settings = foreign.foreign_config(f"{file.parent / 'reward.py'}:red")
    with pytest.raises(Unpredictable, match="no kernel for meta"):
        next(ladder(settings, CARD))
    with pytest.raises(PlanError, match="the device is out of memory"):
        check.smaller(settings)
    with pytest.warns(UserWarning, match="no kernel for meta.*; it is tried"):
        monkeypatch.setattr(check, "free_bytes", lambda device: 1e12)
        assert check.fitted(settings) is None
    assert (
        cli.main(
            ["plan", "--device", "cuda", "--set", f"model.checkpoint={file}", "--set", "prompts.train=['a']"]
        )
        == 2
    )
    assert "could not be predicted" in capsys.readouterr().err
