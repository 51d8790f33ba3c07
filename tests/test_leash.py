"""The leash: what it measures is the path's divergence from the checkpoint's, and training stays as near as is set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

import runs
import tiny
from paths import moved, put
from toy import THETA, toy_batch, toy_problem

from rlr_core.estimators import Problem
from rlr_core.runs import runner
from rlr_core.trainer import Iteration, StopRequested, Trainer, prepare
from rlr_core.trainer import leash as leash_module
from rlr_core.trainer.leash import Leash

LIMIT = 2e-4
DIRECTION = torch.tensor([0.2, -0.1, 0.1, 0.3, -0.2, 0.3], dtype=torch.float64)


def base() -> list[Tensor]:
    return [THETA[:4].reshape(2, 2), THETA[4:]]


def apart(problem: Problem, seed: int = 5000) -> float:
    """D, of 512 pictures on the paths that they take now."""
    here = [p.detach().clone() for p in problem.parameters]
    put(problem, base())
    found = float(moved(problem, toy_batch(512, seed), here).mean())
    put(problem, here)
    return found


def leashed(limit: float, length: float) -> tuple[Leash, Problem]:
    """From THETA, and `length` away from there by now."""
    problem = toy_problem()
    put(problem, base())
    leash = Leash(problem.parameters, limit)
    walk(problem, length)
    return leash, problem


def walk(problem: Problem, length: float) -> None:
    theta = torch.cat([p.detach().flatten() for p in problem.parameters]) + length * DIRECTION
    put(problem, [theta[:4].reshape(2, 2), theta[4:]])


@pytest.mark.parametrize("length", [0.01, 0.1, 0.5])
def test_what_it_measures_is_the_divergence_from_the_checkpoint(length):
    """Every picture from its own path: the mean of many is that of a walk over all steps."""
    leash, problem = leashed(1e9, length)
    found = []
    for seed in range(1200):
        leash.measured = 0
        leash.look(problem, toy_batch(4, seed=seed))
        leash.settle()
        if leash.measured:
            found.append(leash.distance)
    drawn = torch.tensor(found)
    assert 500 < len(found) < 700, "once in two iterations, at first"
    error = float(drawn.std()) / len(found) ** 0.5
    assert error < 0.1 * apart(problem)
    assert float(drawn.mean()) == pytest.approx(apart(problem), abs=4 * error + 0.05 * apart(problem))


def test_nothing_goes_beyond_the_limit():
    """What walks away by a step of the same length each time is held; without a limit it is ten times as far."""
    limit = 1e-3
    ends = {}
    for asked in (limit, 1e9):
        leash, problem = leashed(asked, 0.0)
        for seed in range(300):
            leash.look(problem, toy_batch(4, seed=seed))
            walk(problem, 0.001)
            leash.settle()
        ends[asked] = apart(problem)
    assert limit / 3 < ends[limit] < 3 * limit
    assert ends[1e9] > 10 * ends[limit]


def test_a_distance_that_is_not_finite_is_not_learned():
    leash, problem = leashed(1e-3, 0.1)
    before = apart(problem)
    leash._found = float("inf")
    leash.settle()
    assert leash.measured == 0 and apart(problem) == before


# in training


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


def trainer(workshop: Path, **overrides: Any) -> Trainer:
    settings = {"output__evaluation": 0, "training__max_kl": LIMIT, "training__iterations": 40}
    return Trainer(prepare(runs.config(workshop, **{**settings, **overrides})))


def distance(made: Trainer, start: list[Tensor]) -> float:
    """D of the batch at hand, over all steps."""
    return float(moved(made.setup.problem, made.batch(), start).mean())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lora__targets": "all"},
        {"lora__dora": True},
        {"model__precision": "bfloat16"},
    ],
    ids=str,
)
def test_training_stays_near(settings, workshop):
    """Within a factor of 3 of the limit, measured without rounding, where a run without one is far beyond."""
    settings = {"training__learning_rate": 1e-3, **settings}
    whole = {**settings, "model__precision": "float32", "training__max_kl": 0.0}
    free, held = trainer(workshop, **whole), trainer(workshop, **settings)
    for made in (free, held):
        for _ in range(24):
            made.iterate()
    told = held.iterate()
    assert isinstance(told, Iteration) and held.leash
    assert told.step["distance"] == held.leash.distance == pytest.approx(LIMIT)
    there = distance(free, held.leash.start)
    put(free.setup.problem, [p.detach() for p in held.setup.lora.parameters])
    assert LIMIT / 3 < distance(free, held.leash.start) < 3 * LIMIT < there / 5


def test_without_a_need_to_pull_training_is_as_without_it(workshop):
    """Bit for bit; it only costs."""
    free, watched = trainer(workshop, training__max_kl=0.0), trainer(workshop, training__max_kl=1000.0)
    for made in (free, watched):
        for _ in range(6):
            made.iterate()
    runs.assert_same(free.setup.lora.state_dict(), watched.setup.lora.state_dict())
    assert watched.leash and watched.leash.measured


def test_a_stopped_run_is_resumed_as_if_nothing_had_happened(workshop, tmp_path):
    runs.assert_resumed_alike(workshop, tmp_path, 40, training__max_kl=LIMIT, training__iterations=8)


def test_an_interrupted_look_changes_nothing(workshop):
    runs.assert_an_interrupted_iteration_changes_nothing(trainer(workshop))


def test_what_was_measured_counts_once_the_step_is_taken(workshop, monkeypatch):
    """An iteration that is interrupted after it is done again, and measures again."""
    monkeypatch.setattr(leash_module, "OFTEN", 1)
    made, looked = trainer(workshop), []
    for _ in range(3):
        made.iterate()
    state = made.state_dict()

    def stop(*_: Any) -> None:
        assert made.leash
        looked.append(made.leash._found)
        raise StopRequested

    with monkeypatch.context() as patched, pytest.raises(StopRequested):
        patched.setattr(type(made.setup.estimator), "__call__", stop)
        made.iterate()
    assert looked[0] > 0 and made.whole
    runs.assert_same(made.state_dict(), state)
    made.iterate()
    assert made.leash and made.leash.measured == state["leash"]["measured"] + 1


def test_a_lora_that_training_goes_on_from_is_not_made_weaker(workshop, tmp_path):
    """Though it lies far beyond the limit from the checkpoint, it is where training is held."""
    far = runs.config(workshop, training__learning_rate=5e-3, training__iterations=12, output__evaluation=0)
    directory = runner.start(far, tmp_path / "far", lambda event: None)
    (file,) = directory.folder.glob("rlr-*[!t].safetensors")
    made = trainer(workshop, lora__start=str(file), training__learning_rate=1e-3)
    assert made.leash
    start = made.leash.start
    none = [torch.zeros_like(p) for p in start]
    assert distance(made, none) > 20 * LIMIT
    for _ in range(24):
        made.iterate()
    assert made.leash.distance == pytest.approx(LIMIT)
    assert LIMIT / 3 < distance(made, start) < 3 * LIMIT
    assert distance(made, none) > 10 * LIMIT


def test_chains_without_noise_are_not_held_and_that_is_said(tmp_path):
    folder = runs.workshop(tmp_path)
    tiny.build_checkpoint(folder / "checkpoint", scheduler={"set_alpha_to_one": True})
    with pytest.warns(UserWarning, match="cannot hold chains of 1 steps, none of which adds noise"):
        made = trainer(folder, sampling__steps=1, estimator__name="full_bp")
    assert made.leash is None and isinstance(made.iterate(), Iteration)
