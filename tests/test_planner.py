"""Predictions against what really lives; ladders, refusals, and runs that go on with a smaller plan."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

import runs
from torch.utils.checkpoint import checkpoint

from rlr_core.cli import main
from rlr_core.config import RunConfig, load
from rlr_core.embedded import DEMO
from rlr_core.errors import ConfigError, PlanError
from rlr_core.planner import check, machine
from rlr_core.planner.footprint import LORA, WEIGHTS, Footprint, rehearse, shortened
from rlr_core.planner.ladder import first_that_fits, ladder, savings, smaller_chunks
from rlr_core.planner.live import LiveTensors
from rlr_core.planner.machine import ITSELF, Machine
from rlr_core.planner.on_meta import AsOn
from rlr_core.planner.rehearsal import Rehearsal
from rlr_core.runs import log
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.requests import request_stop
from rlr_core.runs.runner import resume, start
from rlr_core.trainer import Iteration, Replanned, Trainer, prepare

CARD = Machine("cuda", "a card", "bfloat16")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RLR_CACHE", str(tmp_path / "cache"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process begins at zero")
def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it() -> None:
    large = torch.ones(400_000_000)  # 1.6 GB
    ask = "import torch; from rlr_core.planner.machine import peak_bytes; print(peak_bytes(torch.device('cpu')))"
    told = int(subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout)
    assert 1e7 < told < large.nbytes <= machine.peak_bytes(torch.device("cpu"))


def small_demo(*settings: str) -> RunConfig:
    """The embedded checkpoint, few steps."""
    quick = [
        "model.threads=1",
        "model.device=cpu",
        "sampling.steps=5",
        "training.batch_size=2",
        "training.prompts_per_batch=2",
        "output.evaluation=0",
        "output.previews=1",
    ]
    return load(DEMO, [*quick, *settings])


def live_bytes(config: RunConfig) -> int:
    """The most that tensors of one iteration took on the CPU, beside weights and optimizer."""
    trainer = Trainer(prepare(config))
    trainer.iterate()
    with LiveTensors() as live:
        trainer.iterate()
    return live.peak


def predicted_bytes(config: RunConfig) -> int:
    parts = rehearse(config, "cpu").training
    return sum(size for name, size in parts.items() if name not in (WEIGHTS, LORA))


# what is predicted


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["estimator.sub_chain_length=3", "estimator.chunk=1"],
        ["estimator.name=rlr", "estimator.first_order_steps=1"],
        ["estimator.name=rlr", "estimator.first_order_steps=3", "estimator.chunk=2"],
        ["estimator.name=rlr", "estimator.first_order_steps=3", "estimator.rerun=true"],
        ["memory.checkpoint_denoiser=true", "memory.decoder=slices"],
        ["memory.autocast=bfloat16", "memory.decoder=rerun"],
        ["model.precision=bfloat16"],
        ["estimator.name=half", "sampling.steps=2"],
        ["estimator.name=learned_critic", "estimator.chunk=2"],
        ["estimator.name=nft", "estimator.batch_reuse=2"],
        ["estimator.name=rsm", "estimator.draws=3"],
        ["estimator.name=flow_bp", "estimator.first_order_steps=2", "estimator.bridge=0.5"],
    ],
    ids=" ".join,
)
def test_a_prediction_is_what_lives(settings) -> None:
    config = small_demo(*settings)
    assert predicted_bytes(config) == pytest.approx(live_bytes(config), rel=0.02)


def test_a_prediction_needs_no_weights(workshop, tmp_path) -> None:
    config = runs.config(workshop)
    before = rehearse(config, "cpu")
    for file in (workshop / "checkpoint").rglob("*.safetensors"):
        file.rename(tmp_path / file.parent.name)
    try:
        assert rehearse(config, "cpu") == before
    finally:
        for component in ("unet", "vae", "text_encoder"):
            name = "model" if component == "text_encoder" else "diffusion_pytorch_model"
            (tmp_path / component).rename(workshop / "checkpoint" / component / f"{name}.safetensors")


def test_weights_are_counted_in_the_precision_asked_for(workshop) -> None:
    full, half = (
        rehearse(runs.config(workshop, model__precision=p), "cpu").weights for p in ("float32", "bfloat16")
    )
    assert full["unet"] == pytest.approx(2 * half["unet"], rel=0.01)


def test_a_mix_is_predicted_without_measuring_its_scale() -> None:
    """Pictures without numbers have no spread, which a run would be refused for; all parts' networks count."""
    alone = rehearse(load(None), "cuda")
    parts = "{embedded=0.7, embedded-held-out=0.3, sharpness=0.1}"
    mixed = ["reward.name=mix", f"reward.mix={parts}", "estimator.name=reinforce"]
    mixed += ["reward.held_out=embedded-held-out"]
    both = rehearse(load(None, mixed), "cuda")
    scorer = (
        alone.weights["rewards"]
        - rehearse(load(None, ["reward.held_out=sharpness"]), "cuda").weights["rewards"]
    )
    assert both.weights["rewards"] == alone.weights["rewards"] + scorer > alone.weights["rewards"]


def test_of_two_estimators_that_it_may_be_the_larger_one_is_predicted(workshop) -> None:
    found = {
        name: rehearse(runs.config(workshop, estimator__name=name, estimator__first_order_steps=2), "cuda")
        for name in ("auto", "lookahead", "flow_bp")
    }
    assert found["auto"].peak == max(found["lookahead"].peak, found["flow_bp"].peak)
    assert found["auto"].flops == max(found["lookahead"].flops, found["flow_bp"].flops)


def test_on_a_cpu_there_is_nowhere_to_move_weights_to(workshop) -> None:
    def sizes(device: str) -> list[int]:
        configs = [runs.config(workshop, memory__offload=what) for what in ("none", "text")]
        return [rehearse(config, device).training[WEIGHTS] for config in configs]

    assert sizes("cpu")[0] == sizes("cpu")[1] and sizes("cuda")[0] > sizes("cuda")[1]


def test_a_prediction_leaves_the_libraries_as_they_were(workshop) -> None:
    before = dict(vars(torch.nn.functional))
    rehearse(runs.config(workshop), "cuda")
    assert dict(vars(torch.nn.functional)) == before
    assert float(torch.ones(2).sum()) == 2


def linear_on_meta() -> torch.dtype:
    """What a layer gives on `meta` where autocast is asked for: float32, or the lower precision where it is stood in for."""
    x = torch.empty(2, 2, device="meta")
    with torch.autocast("cpu", torch.bfloat16):
        return torch.nn.functional.linear(x, x).dtype


def test_a_prediction_touches_no_other_thread() -> None:
    with AsOn("cpu"), ThreadPoolExecutor(1) as elsewhere:
        functions = dict(vars(torch.nn.functional))
        assert elsewhere.submit(linear_on_meta).result() == torch.float32
        assert linear_on_meta() == torch.bfloat16
    assert dict(vars(torch.nn.functional)) == functions and linear_on_meta() == torch.float32


def test_what_is_run_again_on_the_way_back_is_predicted_too() -> None:
    given: list[torch.dtype] = []

    def layer(x: torch.Tensor) -> torch.Tensor:
        given.append(linear_on_meta())
        return x.square()

    x = torch.empty(2, device="meta", requires_grad=True)
    with AsOn("cpu"):
        (y,) = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).sum(), x)
    assert y.shape == x.shape and given == [torch.bfloat16] * 2


def test_a_layer_of_attention_is_looked_into() -> None:
    """torch's own layer calls the functions that are stood in for."""
    layer, x = torch.nn.MultiheadAttention(8, 2, device="meta"), torch.empty(100, 1, 8, device="meta")

    def peak(mode: Any) -> int:
        with Rehearsal() as seen, mode:
            layer(x, x, x, need_weights=False)
        return seen.peak

    matrix = 2 * 100 * 100 * 4  # of all pairs, for two heads
    assert peak(AsOn("cpu")) < matrix <= peak(nullcontext())


def test_what_lives_does_not_count_views_of_what_was_there() -> None:
    before = torch.ones(1000)
    with LiveTensors() as live:
        view = before.reshape(10, 100).t()
        assert live.peak == 0
        made = view + 1
    assert live.peak == 4000 and made.shape == (100, 10)


def test_the_worst_case_of_a_random_length_is_rehearsed() -> None:
    config, share = shortened(
        small_demo("estimator.name=alignprop", "training.batch_size=8", "estimator.chunk=2")
    )
    assert (config.estimator.name, config.estimator.first_order_steps, share) == ("draft", 5, 0.5)


# a ladder


@pytest.mark.slow
def test_a_ladder_goes_down(workshop) -> None:
    config = runs.config(workshop, estimator__chunk=4, sampling__size=64)
    plans = list(ladder(config, CARD))
    sizes = [plan.footprint.peak for plan in plans]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) >= 4 and sizes[-1] < sizes[0] / 3
    assert not plans[0].settings and plans[1].settings[:2] == ["memory.painted=1", "memory.offload=text"]
    assert load(None, plans[-1].settings).estimator.chunk == 1, "settings are what --set takes"


def test_every_saving_is_offered_once() -> None:
    config = small_demo("estimator.name=rlr", "estimator.chunk=4", "reward.name=pickscore")
    offered = [
        f"{s}.{k}={v}" for change in savings(config, CARD) for s, t in change.items() for k, v in t.items()
    ]
    assert offered == [
        "model.precision=bfloat16", "memory.decoder=rerun", "reward.rerun=True", "estimator.chunk=2",
        "estimator.chunk=1", "memory.checkpoint_denoiser=True", "estimator.rerun=True", "memory.offload=all",
        "memory.decoder=slices",
    ]  # fmt: skip
    assert smaller_chunks(6) == [3, 2, 1] and smaller_chunks(1) == []


def test_weights_in_half_need_no_autocast() -> None:
    changes = next(
        change for change in savings(small_demo("memory.autocast=bfloat16"), CARD) if "model" in change
    )
    assert changes == {"model": {"precision": "bfloat16"}, "memory": {"autocast": "off"}}


@pytest.mark.slow
def test_what_cannot_fit_is_refused(workshop) -> None:
    with pytest.raises(PlanError, match=r"with all savings on(.|\n)*sampling\.size"):
        first_that_fits(runs.config(workshop), CARD, budget=1e6)


@pytest.fixture
def small_card(monkeypatch):
    """A computer that says it has a card of some GB."""

    def card(free: float) -> None:
        monkeypatch.setattr(check, "choose_device", lambda name: torch.device("cuda"))
        monkeypatch.setattr(check, "free_bytes", lambda device: free)
        monkeypatch.setattr(check, "this_machine", lambda device: CARD)

    return card


def test_a_card_that_is_too_small_is_told_before_loading(workshop, small_card) -> None:
    config = runs.config(workshop, sampling__size=64, estimator__chunk=4)
    whole = next(ladder(config, CARD))
    small_card(whole.bytes + 1)
    plan = check.fitted(config)
    assert plan and plan.config == config
    small_card(whole.bytes - 1)
    with pytest.raises(PlanError, match=r"--set memory\.painted=1 --set memory\.offload=text"):
        check.fitted(config)
    automatic = replace(config, memory=replace(config.memory, plan="auto"))
    plan = check.fitted(automatic)
    assert plan and plan.bytes < whole.bytes and plan.config.memory.offload == "text"
    assert check.fitted(replace(config, memory=replace(config.memory, plan="off"))) is None


def stopped_run(workshop: Path, folder: Path, plan: str) -> RunDirectory:
    """After its first iteration."""

    def listen(event: Any) -> None:
        if isinstance(event, Iteration):
            request_stop(folder)

    settings = {
        "training__iterations": 2,
        "output__evaluation": 0,
        "alarm__pictures": 0,
        "estimator__chunk": 2,
    }
    return start(runs.config(workshop, memory__plan=plan, **settings), folder, listen)


@pytest.mark.parametrize("plan", ["check", "auto"])
def test_a_run_that_goes_on_where_there_is_less_memory(workshop, tmp_path, small_card, plan) -> None:
    small_card(1e12)
    directory = stopped_run(workshop, tmp_path / "run", plan)
    small_card(next(ladder(directory.config, CARD)).bytes - 1)
    before, told = directory.events_file.read_bytes(), []
    if plan == "check":
        with pytest.raises(PlanError, match=r"--set memory\.painted=1"):
            resume(tmp_path / "run", told.append)
        assert directory.events_file.read_bytes() == before and directory.state().state == "stopped"
        return
    directory = resume(tmp_path / "run", told.append)
    assert directory.state().state == "finished" and directory.config.memory.offload == "text"
    assert isinstance(told[0], Replanned) and told[0].iteration == 1


@pytest.mark.slow
def test_a_cpu_only_warns(workshop) -> None:
    config = runs.config(workshop, memory__budget=(ITSELF["cpu"] + 5e5) / 2**30)
    assert check.fitted(runs.config(workshop)) is None, "a small checkpoint needs no prediction"
    sizes = [plan.bytes for plan in ladder(config, machine.this_machine(torch.device("cpu")))]
    config = replace(config, memory=replace(config.memory, budget=(sizes[0] + sizes[-1]) / 2**31))
    with pytest.warns(UserWarning, match="these settings fit: --set"):
        assert check.fitted(config)


# out of memory

HUNGRY = """
import torch

def hungry(images, prompts):
    if torch.is_grad_enabled() and len(images) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return images.mean((1, 2, 3))

hungry.differentiable = True
"""


def hungry(workshop: Path, tmp_path: Path, **overrides: Any) -> RunConfig:
    (tmp_path / "hungry.py").write_text(HUNGRY, encoding="utf-8")
    settings = {"training__iterations": 3, "estimator__chunk": 2, "sampling__size": 32}
    config = runs.config(workshop, **{**settings, **overrides})
    return replace(config, reward=replace(config.reward, name=f"{tmp_path / 'hungry.py'}:hungry"))


def test_a_run_without_memory_goes_on_with_a_smaller_plan(workshop, tmp_path) -> None:
    told: list[Any] = []
    directory = start(hungry(workshop, tmp_path), tmp_path / "run", told.append)
    assert directory.state().state == "finished" and directory.config.estimator.chunk == 1
    events = log.read(directory.events_file)
    replanned = [event for event in events if event["type"] == "replanned"]
    assert replanned and "estimator.chunk=1" in replanned[-1]["settings"]
    assert [event["iteration"] for event in events if event["type"] == "iteration"] == [1, 2, 3]
    assert any(isinstance(event, Replanned) for event in told)
    assert RunDirectory(tmp_path / "run").config == directory.config


@pytest.mark.slow
def test_a_run_that_no_plan_can_save_says_so(workshop, tmp_path) -> None:
    config = hungry(workshop, tmp_path)
    text = HUNGRY.replace("len(images) > 1", "True")
    (tmp_path / "hungry.py").write_text(text, encoding="utf-8")
    with pytest.raises(PlanError, match=r"out of memory(.|\n)*rlr plan"):
        start(config, tmp_path / "run", lambda event: None)
    state = RunDirectory(tmp_path / "run").state()
    assert state.state == "failed" and "out of memory" in state.message


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), False),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_out_of_memory_is(error, is_it) -> None:
    assert check.is_out_of_memory(error) is is_it
    outer = ValueError("a reward failed")
    outer.__cause__ = error
    assert check.is_out_of_memory(outer) is is_it


# what was measured before


def footprint(peak: float) -> Footprint:
    return Footprint({"weights": int(peak)}, 0, 1e12, {})


def test_measured_peaks_correct_later_predictions() -> None:
    plain, plan = Machine("cpu", "cpu: mine", ""), footprint(10e9 - ITSELF["cpu"])
    assert plain.needs(plan) == 10e9 and plain.seconds(plan, "float32") is None
    machine.learn(plain, plan, "float32", peak=int(12e9), seconds=4.0)
    known = machine.read_measured()["cpu: mine"]
    learned = Machine("cpu", "cpu: mine", "", known)
    assert learned.needs(plan) == pytest.approx(12e9) and learned.seconds(plan, "float32") == 4.0
    assert learned.seconds(plan, "bfloat16") is None
    machine.learn(learned, plan, "bfloat16", peak=int(11e9), seconds=2.0)
    known = machine.read_measured()["cpu: mine"]
    assert known["memory"] == pytest.approx(1.1) and len(known["speed"]) == 2, "ratios are not multiplied up"


def test_small_runs_teach_nothing_about_memory() -> None:
    machine.learn(CARD, footprint(1e6), "float32", peak=int(3e9), seconds=1.0)
    known = machine.read_measured()[CARD.name]
    assert "memory" not in known and known["speed"]


def test_a_damaged_file_of_measurements_counts_as_none() -> None:
    machine.measured_file().parent.mkdir(parents=True)
    for text in ("{", "[]", ""):
        machine.measured_file().write_text(text, encoding="utf-8")
        assert machine.read_measured() == {}
    machine.learn(CARD, footprint(9e9), "float32", peak=int(9e9), seconds=1.0)
    assert json.loads(machine.measured_file().read_text(encoding="utf-8"))[CARD.name]["memory"]


# the command


@pytest.mark.slow
def test_rlr_plan_prints_a_table_and_what_to_set(workshop, tmp_path, capsys) -> None:
    from rlr_core import config as settings

    path = tmp_path / "tiny.toml"
    config = runs.config(workshop, sampling__size=64, estimator__chunk=4)
    path.write_text(settings.to_toml(config), encoding="utf-8")
    whole = next(ladder(config, CARD)).bytes / 2**30
    assert main(["plan", str(path), "--memory", "8", "--memory", f"{whole - 0.001}", "--memory", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "as configured" in out and "memory.painted=1 memory.offload=text" in out
    assert "8 GB: enough for the run as it is" in out and "0.1 GB: not enough" in out
    assert "GB: --set memory.painted=1 --set memory.offload=text" in out


# 8-bit Adam


def test_8_bit_adam_needs_its_library(workshop, monkeypatch) -> None:
    config = runs.config(workshop, memory__optimizer="adam8bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"bitsandbytes(.|\n)*pip install 'rlr\[adam8bit\]'"):
        Trainer(prepare(config))
    library = types.SimpleNamespace(Adam8bit=type("Adam8bit", (torch.optim.Adam,), {}))
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", library)
    assert type(Trainer(prepare(config)).optimizer).__name__ == "Adam8bit"
    assert rehearse(config, "cpu").training == rehearse(runs.config(workshop), "cpu").training

    def step(self: Any) -> None:
        raise NotImplementedError("no kernel")

    library.Adam8bit.step = step
    with pytest.raises(ConfigError, match=r"on 'cpu': no kernel(.|\n)*set memory\.optimizer = 'adam'"):
        Trainer(prepare(config))
