"""Training what is not a plain LoRA in the UNet: text encoders, DoRA, a LoRA to go on from, the average of iterations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

import runs

from rlr_core.config import LoraConfig
from rlr_core.errors import CheckpointError
from rlr_core.families import SD1
from rlr_core.lora import inject, read_lora, write_lora
from rlr_core.models import load_model, prompted
from rlr_core.runs import runner
from rlr_core.trainer import Trainer, prepare
from rlr_core.trainer.averaging import Average

QUICK = {"training__iterations": 3, "output__evaluation": 2, "output__preview_every": 0}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


def trainer(workshop: Path, **settings) -> Trainer:
    return Trainer(prepare(runs.config(workshop, **{"output__evaluation": 0, **settings})))


# text encoders


def test_encoding_anew_predicts_the_same(workshop):
    model = load_model(str(workshop / "checkpoint"), device="cpu", dtype=torch.float32)
    once, anew = (prompted(model, 3.0, encode_anew=flag) for flag in (False, True))
    x, level = torch.randn(3, 4, 8, 8), model.schedule(10).level(torch.tensor([1, 4, 7]))
    prompts = ["red cat", "dog", "red cat"]
    theirs = anew.denoiser(x, level, anew.encode(prompts, ["bad"] * len(prompts)))
    torch.testing.assert_close(theirs, once.denoiser(x, level, once.encode(prompts, ["bad"] * len(prompts))))


def test_the_gradient_reaches_the_text_encoder_and_is_right(workshop):
    """Against a difference quotient along a random direction."""
    model = load_model(str(workshop / "checkpoint"), device="cpu", dtype=torch.float32)
    lora = inject(model, LoraConfig(rank=2, text_encoder=True), 0)
    with torch.no_grad():
        for p in lora.parameters:
            p.add_(torch.randn_like(p) * 0.3)
    view = prompted(model, 3.0, encode_anew=True)
    x, level = torch.randn(2, 4, 8, 8), model.schedule(10).level(torch.tensor([1, 4]))
    tokens = view.encode(["red cat", "dog"], ["bad"] * 2)

    def objective() -> torch.Tensor:
        return view.denoiser(x, level, tokens).noise.double().square().sum()

    text = [p for (place, *pair) in lora.layers() for p in pair if place.network == "text_encoder"]
    gradients = torch.autograd.grad(objective(), text)
    directions = [torch.randn_like(p) for p in text]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    values = []
    with torch.no_grad():
        for step in (2e-3, -4e-3):
            for p, d in zip(text, directions, strict=True):
                p.add_(step * d)
            values.append(objective())
    assert float(values[0] - values[1]) / 4e-3 == pytest.approx(float(slope), rel=2e-2)


@pytest.mark.parametrize("name", ["rlr", "lookahead", "zeroth", "ddpo", "full_bp"])
def test_every_kind_of_estimator_trains_the_text_encoder(name, workshop):
    made = trainer(workshop, lora__text_encoder=True, estimator__name=name)
    before = made.setup.lora.weights()
    made.iterate()
    after = made.setup.lora.weights()
    changed = [place for place in before if not torch.equal(before[place].up, after[place].up)]
    assert {place.network for place in changed} == {"unet", "text_encoder"}


def test_a_run_with_a_text_encoder_ends_in_a_file_with_it(workshop, tmp_path):
    settings = {
        **QUICK,
        "lora__text_encoder": True,
        "lora__rslora": True,
        "lora__rank": 4,
        "output__precision": "float16",
    }
    folder = runner.start(runs.config(workshop, **settings), tmp_path / "run", lambda event: None).folder
    file = read_lora(folder / "rlr-lora.safetensors")
    assert {place.network for place in file.weights} == {"unet", "text_encoder"}
    layer = next(iter(file.weights.values()))
    assert layer.scale == pytest.approx(8 / 4**0.5), "rsLoRA: alpha / sqrt(rank)"
    assert layer.up.dtype == torch.float16


def test_dora_is_trained_and_written(workshop, tmp_path):
    folder = runner.start(
        runs.config(workshop, **QUICK, lora__dora=True), tmp_path / "run", lambda event: None
    ).folder
    file = read_lora(folder / "rlr-lora.safetensors")
    assert all(layer.magnitude is not None for layer in file.weights.values())
    again = trainer(workshop, lora__start=str(folder / "rlr-lora.safetensors"))
    assert again.setup.lora.dora


# going on from a file


@pytest.mark.parametrize("kind", ["kohya", "diffusers"])
def test_a_run_goes_on_from_a_file(kind, workshop, tmp_path):
    """Its rank, alpha and layers are those of the file, whatever the config says."""
    first = trainer(workshop, lora__rank=3, lora__alpha=1.5, lora__targets="all")
    first.iterate()
    weights, file = first.setup.lora.weights(), tmp_path / "ä start.safetensors"
    write_lora(file, weights, {}, family=SD1.lora, kind=kind)
    with pytest.warns(UserWarning, match=r"going on from .*: rank 3, alpha 1.5, \d+ layers of unet"):
        second = trainer(workshop, lora__start=str(file), lora__rank=8)
    assert second.setup.lora.sizes == first.setup.lora.sizes
    for place, layer in second.setup.lora.weights().items():
        assert torch.equal(layer.up, weights[place].up) and torch.equal(layer.down, weights[place].down)
    second.iterate()


def test_a_start_that_does_not_fit_leaves_no_folder(workshop, tmp_path):
    settings = {"lora__start": str(tmp_path / "nowhere.safetensors")}
    with pytest.raises(CheckpointError, match="no file at"):
        runner.start(runs.config(workshop, **settings), tmp_path / "run", lambda event: None)
    assert not (tmp_path / "run").exists()


# the average


def test_the_average_is_that_of_adams_moments():
    parameter = torch.zeros(2, requires_grad=True)
    average, values = Average([parameter], 0.9), [torch.tensor([1.0, -2.0]), torch.tensor([3.0, 4.0])]
    for value in values:
        with torch.no_grad():
            parameter.copy_(value)
        average.update()
    weights = torch.tensor([0.9, 1.0]) / 1.9
    average.apply()
    torch.testing.assert_close(parameter.detach(), weights[0] * values[0] + weights[1] * values[1])


def test_without_decay_nothing_is_averaged():
    parameter = torch.ones(2, requires_grad=True)
    average = Average([parameter], 0.0)
    average.update()
    with torch.no_grad():
        parameter.mul_(3)
    average.apply()
    assert torch.equal(parameter.detach(), torch.full((2,), 3.0))


def test_the_file_holds_the_average_and_resume_is_bit_exact(workshop, tmp_path):
    settings = {
        **QUICK,
        "training__ema": 0.8,
        "training__iterations": 4,
        "output__evaluation": 3,
        "output__preview_every": 2,
    }
    straight = runner.start(
        runs.config(workshop, **settings), tmp_path / "straight", lambda event: None
    ).folder

    def crash(event):
        if getattr(event, "iteration", 0) == 3:
            raise MemoryError

    with pytest.raises(MemoryError):
        runner.start(runs.config(workshop, **settings), tmp_path / "run", crash)
    runner.resume(tmp_path / "run", lambda event: None)
    runs.assert_same_run(tmp_path / "run", straight)
    plain = runner.start(
        runs.config(workshop, **{**settings, "training__ema": 0.0}), tmp_path / "plain", lambda event: None
    ).folder
    tensors, others = (runs.lora(folder)[0] for folder in (straight, plain))
    assert any(not torch.equal(value, others[name]) for name, value in tensors.items())
    state = runs.newest(straight)
    assert any(torch.equal(value, others[name]) for name, value in state["lora"].items()), (
        "training goes on from the latest"
    )
