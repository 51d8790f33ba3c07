"""The beds that studies are done on: each is what it says it is, and is made again by its script."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import torch
from safetensors.torch import load_file
from torch import Tensor

from rlr_core.bench.beds import MADE, NAMES, bed, making, overview, prepared
from rlr_core.bench.beds.drawn import World
from rlr_core.bench.beds.flow import FlowModel, train_flow
from rlr_core.bench.beds.judges import train_judge
from rlr_core.bench.beds.pipeline import train_pipeline
from rlr_core.bench.learn import Budget, learn, learn_settings
from rlr_core.bench.methods import read_methods
from rlr_core.chain import Level, Schedule
from rlr_core.cli.main import main
from rlr_core.config import ModelConfig, to_toml
from rlr_core.errors import CheckpointError, ConfigError, PromptError
from rlr_core.models import StableDiffusion

SEED = 7


@cache
def setup(name: str) -> Any:
    """What a job of the default trains with."""
    return prepared(settings(name))


def settings(name: str, evaluations: int = 1) -> dict[str, Any]:
    """A short job of the default, with few steps."""
    method = read_methods()["default"]
    method = replace(method, settings={**method.settings, "sampling": {"steps": 5}})
    return learn_settings(method, 1e-3, SEED, Budget(evaluations, 0.0, 1, 2), bed(name), device="cpu")


@cache
def model(name: str) -> Any:
    """As it is loaded."""
    made = bed(name).made
    assert made
    return made.files(name).load(ModelConfig(), torch.device("cpu"))


def world(name: str) -> World:
    made = bed(name).made
    assert made
    return made.world


def drawn(name: str, count: int, *, mistaken: bool) -> tuple[Tensor, list[str]]:
    """Pictures of held-out captions' scenes, or of what they are mistaken for, and those captions."""
    mine, rng = world(name), np.random.default_rng(SEED)
    prompts = mine.prompts()[1][:count]
    scenes = [mine.mistaken(mine.asked(p)) if mistaken else mine.asked(p) for p in prompts]
    return torch.from_numpy(np.stack([mine.draw(scene, rng) for scene in scenes])), prompts


# Worlds


@pytest.mark.parametrize("name", MADE)
def test_captions_say_all_and_mistaken_ones_another_word_for_the_weakness_alone(name: str) -> None:
    mine, rng = world(name), np.random.default_rng(SEED)
    assert len(set(mine.captions)) == np.prod([len(words) for words in mine.choices.values()])
    for scene in (mine.random_scene(rng) for _ in range(20)):
        assert mine.asked(mine.caption(scene)) == scene
        wrong = mine.mistaken(scene)
        assert {key for key in scene if scene[key] != wrong[key]} == {mine.weak}
        assert mine.mistaken(wrong) == scene
    with pytest.raises(PromptError, match="asks for nothing in this world"):
        mine.asked("xylophone")


@pytest.mark.parametrize("name", MADE)
def test_held_out_prompts_are_not_trained_on_and_have_every_word(name: str) -> None:
    train, held_out = world(name).prompts()
    assert not set(train) & set(held_out)
    assert {*train, *held_out} == set(world(name).captions) and len(held_out) >= len(train) / 12
    words = {word for text in held_out for word in text.split()}
    assert words == set(world(name).words)


def test_weaknesses_and_words_differ() -> None:
    assert len({world(name).weak for name in MADE}) == len(MADE)
    assert len({bed(name).summary for name in NAMES}) == len(NAMES)


# Checkpoints, rewards and scorers


@pytest.mark.parametrize("name", MADE)
def test_a_bed_paints_and_its_judges_look(name: str) -> None:
    mine = setup(name)
    images = mine.painter(mine.held_out_prompts[:2], [1, 2])
    assert images.shape == (2, 3, 32, 32) and images.isfinite().all()
    assert images.std() > 0.05, "a picture, and not one colour"
    for reward in (mine.reward, mine.held_out):
        assert reward.measure(images, world(name).prompts()[1][:2]).total.shape == (2,)


@pytest.mark.parametrize("name", MADE)
def test_judges_tell_right_pictures_from_wrong_ones(name: str) -> None:
    """Of 20 captions nearly all, by the weakness alone; the two judges are of different kinds."""
    right, prompts = drawn(name, 20, mistaken=False)
    wrong, _ = drawn(name, 20, mistaken=True)
    mine = setup(name)
    for reward in (mine.reward, mine.held_out):
        told = reward.measure(right, prompts).total > reward.measure(wrong, prompts).total
        assert told.float().mean() >= 0.9
    made = bed(name).made
    assert made and made.reward != made.scorer


@pytest.mark.parametrize("name", MADE)
def test_the_rewards_gradient_is_finite_and_the_scorer_has_none(name: str) -> None:
    pictures, prompts = drawn(name, 4, mistaken=True)
    pictures.requires_grad_()
    (gradient,) = torch.autograd.grad(setup(name).reward(pictures, prompts).sum(), pictures)
    assert gradient.isfinite().all() and all(each.any() for each in gradient)
    assert setup(name).reward.differentiable and not setup(name).held_out.differentiable


def schedule(name: str) -> Schedule:
    return model(name).schedule(20, None)


def first(name: str) -> tuple[Tensor, Any, Level]:
    """Noise, and what the guided denoiser makes of it at the first level of all."""
    mine, level = model(name), schedule(name).level(torch.tensor([0]))
    x = torch.randn(1, *mine.latent_shape(None), generator=torch.Generator().manual_seed(SEED))
    conditioning = mine.encode(world(name).prompts()[1][:1], [""])
    with torch.no_grad():
        return x, mine.denoiser(3.0)(x, level, conditioning), level


def test_count_predicts_noise() -> None:
    mine = model("count")
    assert isinstance(mine, StableDiffusion) and mine.prediction_type == "epsilon"
    assert 0 < float(schedule("count").alpha[0]) < 0.1
    assert bed("count").settings["sampling"]["guidance_scale"] >= 5


def test_place_flows() -> None:
    levels = schedule("place")
    assert isinstance(model("place"), FlowModel)
    torch.testing.assert_close(levels.alpha + levels.sigma, torch.ones_like(levels.alpha))
    assert float(levels.alpha[0]) == 0 and float(levels.sigma[-1]) == 0
    x, predicted, level = first("place")
    torch.testing.assert_close(level.alpha.float() * predicted.sample + predicted.noise, x)


def test_shape_predicts_v_from_nothing_but_noise() -> None:
    mine = model("shape")
    assert isinstance(mine, StableDiffusion) and mine.prediction_type == "v_prediction"
    assert float(schedule("shape").alpha[0]) == 0
    _, predicted, _ = first("shape")
    assert predicted.sample.isfinite().all() and predicted.sample.std() > 0.05, "a picture is in it already"


@pytest.mark.parametrize("name", MADE)
def test_the_default_trains_an_iteration(name: str) -> None:
    result = learn(settings(name))
    assert not result["failure"] and [point["iteration"] for point in result["points"]] == [0, 1]
    assert 0 <= result["points"][0]["held_out"] <= 1
    assert result["points"][1]["reward"] != result["points"][0]["reward"], "the LoRA is no longer zero"


def test_on_place_early_predictions_do_not_rank(capsys: pytest.CaptureFixture[str]) -> None:
    """As they do on the embedded bed, whose window of starts the default has."""
    assert main(["bench", "beds", "--rank", "place"]) == 0
    told = capsys.readouterr().out
    (first, after) = map(int, re.findall(r"start at steps (\d+) to (\d+) of 20", told)[0])
    assert 10 <= first <= after <= 20


def told(name: str, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What `best_of` tells of few pictures: mean, best by the reward and by the scorer, τ."""
    monkeypatch.setattr(overview, "PROMPTS", 8)
    monkeypatch.setattr(overview, "EACH", 8)
    row = overview.best_of(name).strip().splitlines()[-1]
    return [float(cell) for cell in row.strip("|").split("|")[1:]]


@pytest.mark.parametrize("name", MADE)
def test_each_beds_reward_can_teach_what_its_scorer_looks_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures that it likes best have at least half of what is to be had; else nothing could be learned from it."""
    mean, best, most, tau = told(name, monkeypatch)
    assert best - mean > (most - mean) / 2 and tau > 0.2


def test_a_scorer_as_the_reward_finds_its_own_best(monkeypatch: pytest.MonkeyPatch) -> None:
    take = overview.prepared
    monkeypatch.setattr(overview, "prepared", lambda job: _judged_by_scorer(take(job)))
    mean, best, most, tau = told("shape", monkeypatch)
    assert mean < best == most and tau == 1


def _judged_by_scorer(mine: Any) -> Any:
    return replace(mine, rewards=replace(mine.rewards, trained=mine.held_out))


# Their making


def trained(folder: Path) -> dict[str, Tensor]:
    """All weights in a folder."""
    files = sorted(folder.rglob("*.safetensors"))
    assert files
    return {f"{file.name}: {name}": value for file in files for name, value in load_file(file).items()}


@pytest.mark.parametrize("name", MADE)
def test_training_is_the_same_again(name: str, tmp_path: Path) -> None:
    """Of few steps; from whatever state the generator was left in."""
    from rlr_core.bench.beds import count, place, shape

    for again in ("a", "b"):
        torch.rand(1)
        folder = tmp_path / again
        if name == "place":
            few = replace(place.RECIPE, pictures=16, steps=2, weak_steps=1, batch=2)
            train_flow(place.WORLD, few, folder / "flow.safetensors")
        else:
            of = {"count": count, "shape": shape}[name]
            few = replace(of.RECIPE, pictures=16, vae_steps=1, steps=2, weak_steps=1)
            train_pipeline(of.WORLD, few, folder)
        train_judge("mixer", world(name), SEED, 2, folder / "judge.safetensors")
    first, second = trained(tmp_path / "a"), trained(tmp_path / "b")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_files_that_are_not_there_say_how_to_make_them(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(making, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="rlr bench beds --train count"):
        prepared(settings("count"))
    with pytest.raises(ConfigError, match="train_checkpoint trains the embedded one"):
        overview.train_bed("embedded", tmp_path)


# Beds of a study


def test_unknown_beds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "learn", "--bed", "cuont"]) == 2
    assert "did you mean 'count'?" in capsys.readouterr().err


def test_jobs_of_the_embedded_bed_are_those_of_before() -> None:
    assert "bed" not in settings("embedded") and settings("count")["bed"] == "count"
    assert settings("count")["config"]["prompts"]["train"] == [], "the bed knows its prompts"


def test_a_users_config_is_a_bed(tmp_path: Path) -> None:
    """What it trains on is taken from it, how it trains is the methods' affair."""
    workshop = runs.workshop(tmp_path)
    runs_config = runs.config(workshop, training__learning_rate=0.5, lora__rank=2, estimator__name="refl")
    file = workshop / "own.toml"
    file.write_text(to_toml(runs_config), encoding="utf-8")
    mine = settings(str(file))["config"]
    assert mine["model"]["checkpoint"] == runs_config.model.checkpoint and mine["lora"]["rank"] == 2
    assert mine["estimator"]["name"] == "lookahead" and mine["training"]["learning_rate"] == 1e-3
    result = learn(settings(str(file)))
    assert not result["failure"] and len(result["points"]) == 2


# Side by side


def row(method: str, start: float, end: float, **more: Any) -> dict[str, Any]:
    measured = {
        "start": {"value": start, "half_width": 0.01},
        "evaluations": {"value": end, "half_width": 0.05},
    }
    return {
        "method": method,
        "label": method.upper(),
        "learning_rate": 0.002,
        "seeds": 3,
        "collapsed": 0,
        **measured,
        **more,
    }


def test_all_beds_are_told_in_one_table(tmp_path: Path) -> None:
    """The method that gains most of what could be gained comes first; what is missing or broken is told."""
    for name, rows in (
        ("embedded", [row("a", 0.4, 0.5), row("b", 0.4, 0.9)]),
        (
            "count",
            [
                row("b", 0.5, 0.3, collapsed=2, gained={"value": -0.2, "half_width": 0.04}),
                row("c", 0.5, 0.6, gained={"value": 0.1, "half_width": None}),
            ],
        ),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "learn.json").write_text(json.dumps(rows), encoding="utf-8")
    lines = overview.learned(tmp_path).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [line[0] for line in cells] == [
        "held-out score at equal evaluations",
        "-" * len("held-out score at equal evaluations"),
        "before training",
        "B",
        "C",
        "A",
    ]
    assert cells[2][1:] == ["0.40 ± 0.01", "0.50 ± 0.01"]
    assert cells[3][1:] == [
        "0.90 ± 0.05 (rate 0.002)",
        "0.30 ± 0.05 (-0.20 ± 0.04, rate 0.002, 2 of 3 broken)",
    ]
    assert cells[4][2] == "0.60 ± 0.05 (+0.10, rate 0.002)"
    assert cells[5][1:] == ["0.50 ± 0.05 (rate 0.002)", "–"]
    assert (tmp_path / "beds.md").read_text(encoding="utf-8") == overview.learned(tmp_path)
