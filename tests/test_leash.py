"""The leash: what it measures is the path's divergence from the checkpoint's, and training stays as near as is set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

import runs
from paths import moved, put
from toy import THETA, toy_batch, toy_problem

from rlr_core.errors import ConfigError
from rlr_core.estimators import Problem
from rlr_core.runs import runner
from rlr_core.trainer import Iteration, StopRequested, Trainer, prepare
from rlr_core.trainer import leash as leash_module
from rlr_core.trainer.leash import Leash

LIMIT = 2e-4
DIRECTION = torch.tensor([0.2, -0.1, 0.1, 0.3, -0.2, 0.3], dtype=torch.float64)


class Added:
    """What a LoRA is to a leash: the toy's parameters are THETA and something that is added."""

    def __init__(self, problem: Problem, length: float):
        self.problem, self.length = problem, length
        self._put(1.0)

    def _put(self, strength: float) -> None:
        theta = THETA + strength * self.length * DIRECTION
        put(self.problem, [theta[:4].reshape(2, 2), theta[4:]])

    @contextmanager
    def scaled(self, strength: float) -> Iterator[None]:
        self._put(strength)
        yield
        self._put(1.0)

    @property
    def square(self) -> float:
        return self.length**2

    def weaken(self, share: float) -> None:
        self.length *= share
        self._put(1.0)


def base() -> list[Tensor]:
    return [THETA[:4].reshape(2, 2), THETA[4:]]


def apart(problem: Problem, seed: int = 5000) -> float:
    """D, of 512 pictures."""
    return float(moved(problem, toy_batch(512, seed), base()).mean())


def leashed(limit: float, length: float) -> tuple[Leash, Problem, Added]:
    problem = toy_problem()
    lora = Added(problem, length)
    return Leash(lora, limit), problem, lora  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("length", [0.01, 0.1, 0.5])
def test_what_it_measures_is_the_divergence_from_the_checkpoint(length):
    """Every picture from its own path: the mean of many is that of a walk over all steps."""
    leash, problem, _ = leashed(1e9, length)
    found = []
    for seed in range(1200):
        leash.measured = 0
        leash.look(problem, toy_batch(4, seed=seed))
        leash.settle()
        if leash.measured:
            found.append(leash.distance)
    drawn = torch.tensor(found)
    assert 200 < len(found) < 400, "once in four iterations"
    error = float(drawn.std()) / len(found) ** 0.5
    # of paths from the checkpoint's own states, or from the LoRA's: the same for short ways
    assert error < 0.1 * apart(problem)
    assert float(drawn.mean()) == pytest.approx(apart(problem), abs=4 * error + 0.1 * length * apart(problem))


def test_nothing_goes_beyond_the_limit():
    """What walks away by a step of the same length each time is held; without a limit it is ten times as far."""
    limit = 1e-3
    ends = {}
    for asked in (limit, 1e9):
        leash, problem, lora = leashed(asked, 0.0)
        for seed in range(300):
            leash.look(problem, toy_batch(4, seed=seed))
            lora.length += 0.001
            lora._put(1.0)
            leash.settle()
        ends[asked] = apart(problem)
    assert limit / 2 < ends[limit] < 2 * limit
    assert ends[1e9] > 10 * ends[limit]


def test_a_distance_that_is_not_finite_is_not_learned():
    leash, _, lora = leashed(1e-3, 0.1)
    leash._found = float("inf")
    leash.settle()
    assert leash.measured == 0 and lora.length == 0.1


# in training


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


def trainer(workshop: Path, **overrides: Any) -> Trainer:
    settings = {"output__evaluation": 0, "training__max_kl": LIMIT, "training__iterations": 40}
    return Trainer(prepare(runs.config(workshop, **{**settings, **overrides})))


def distance(made: Trainer) -> float:
    """D of the batch at hand, over all steps."""
    lora = made.setup.lora
    trained = [p.detach().clone() for p in lora.parameters]
    batch = made.batch()
    lora.weaken(0.0)
    none = [p.detach().clone() for p in lora.parameters]
    put(made.setup.problem, trained)
    return float(moved(made.setup.problem, batch, none).mean())


@pytest.mark.parametrize(
    "settings", [{}, {"lora__targets": "all"}, {"model__precision": "bfloat16"}], ids=str
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
    there = distance(free)
    put(free.setup.problem, [p.detach() for p in held.setup.lora.parameters])
    assert LIMIT / 3 < distance(free) < 3 * LIMIT < there / 5


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
    monkeypatch.setattr(leash_module, "EVERY", 1)
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


def test_dora_is_refused(workshop, tmp_path):
    """Also where only the file that a run goes on from is one."""
    refused = r"training.max_kl = 0.0002 with a DoRA"
    with pytest.raises(ConfigError, match=refused):
        trainer(workshop, lora__dora=True)
    config = runs.config(workshop, lora__dora=True, training__iterations=1)
    directory = runner.start(config, tmp_path / "dora", lambda event: None)
    (file,) = directory.folder.glob("rlr-*[!t].safetensors")
    with pytest.raises(ConfigError, match=refused):
        trainer(workshop, lora__start=str(file))
