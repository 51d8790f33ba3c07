"""The trust region: a step moves the path by what is set, whatever the LoRA is; noise moves nothing; only lengths change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

import runs
from paths import moved, put
from toy import toy_batch, toy_problem

from rlr_core.errors import ConfigError
from rlr_core.estimators import Problem
from rlr_core.estimators.problem import Batch, flatten
from rlr_core.trainer import Iteration, Trainer, prepare
from rlr_core.trainer.optimizer import moments
from rlr_core.trainer.setup import Interruptible
from rlr_core.trainer.trust import OFTEN, TrustRegion

KL = 1e-3


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


def trainer(workshop: Path, **overrides: Any) -> Trainer:
    settings = {
        "output__evaluation": 0,
        "training__step": "trust",
        "training__kl": KL,
        "training__max_kl": 0.0,
        "training__iterations": 40,
    }
    return Trainer(prepare(runs.config(workshop, **{**settings, **overrides})))


# Adam's moments


def test_moments_are_those_of_torchs_adam():
    """To rounding, over steps whose gradients differ by orders of magnitude; before any there is nothing."""
    parameters = [torch.zeros(3, requires_grad=True), torch.zeros(2, 2, requires_grad=True)]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    assert moments(optimizer, parameters).count == 0
    for k in range(4):
        gradient = 10.0 ** (k - 2) * torch.randn(7, generator=torch.Generator().manual_seed(k))
        foreseen = moments(optimizer, parameters, gradient)
        before = flatten(parameters).detach().clone()
        for p, part in zip(parameters, gradient.split([3, 4]), strict=True):
            p.grad = part.view_as(p).clone()
        optimizer.step()
        found = moments(optimizer, parameters)
        assert foreseen.count == found.count == k + 1
        for one, other in ((foreseen.mean, found.mean), (foreseen.step, found.step)):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(
            before - 0.01 * foreseen.step, flatten(parameters).detach(), rtol=1e-5, atol=1e-7
        )


# on the linear-Gaussian chain


def region(problem: Problem, kl: float = KL) -> TrustRegion:
    return TrustRegion(problem.parameters, torch.optim.Adam(problem.parameters), kl)


def stepped(trust: TrustRegion, problem: Problem, batch: Batch, gradient: Tensor) -> float:
    """An iteration as the trainer has it; the rate."""
    trust.look(problem, batch, problem.denoiser, new_batch=True)
    for p, part in zip(
        problem.parameters, gradient.split([p.numel() for p in problem.parameters]), strict=True
    ):
        p.grad = part.view_as(p).clone()
    rate = trust.rate(gradient)
    trust.optimizer.param_groups[0]["lr"] = rate
    trust.optimizer.step()
    return rate


def test_where_gradients_agree_a_step_moves_the_path_by_what_is_set():
    """From 1e-6 to 1e-2; after 40 iterations of one gradient, on average over pictures."""
    for kl in (1e-6, 1e-4, 1e-2):
        problem, gradient = toy_problem(), torch.tensor([0.3, -0.1, 0.2, 1.0, -0.5, 0.4]).double()
        trust, ratios = region(problem, kl), []
        for k in range(60):
            before = [p.detach().clone() for p in problem.parameters]
            stepped(trust, problem, toy_batch(4, seed=k), gradient)
            if k >= 40:
                ratios.append(float(moved(problem, toy_batch(256, seed=1000 + k), before).mean()) / kl)
            put(problem, before)
        assert trust.signal > 0.9
        assert math.exp(torch.tensor(ratios).log().mean()) == pytest.approx(trust.signal**2, rel=0.25)


def test_gradients_that_say_nothing_move_nothing():
    """The path's walk by noise is far below what a certain direction may go; power: a constant gradient goes there."""
    lengths, toy = {}, toy_problem()
    for name, constant in (("noise", 0.0), ("signal", 1.0)):
        size, draws = 4096, torch.Generator().manual_seed(1)
        theta = [torch.zeros(size, requires_grad=True)]
        trust = TrustRegion(theta, torch.optim.Adam(theta), KL, curvature=1.0, measured=OFTEN)
        told = []
        for k in range(200):
            theta[0].grad = torch.randn(size, generator=draws) + constant
            trust.look(toy, toy_batch(4, seed=k), toy.denoiser, new_batch=True)
            trust.rate(theta[0].grad)
            trust.optimizer.step()
            told.append(trust.told(1.0)["kl"])
        lengths[name] = sum(told[20:]) / len(told[20:])
    assert lengths["noise"] < 2e-3 * KL
    assert lengths["signal"] > 0.5 * KL


def test_a_batch_that_comes_again_confirms_nothing():
    """Its own noise would: with it, one batch's noise alone passes for signal."""
    theta, toy = [torch.zeros(64, requires_grad=True)], toy_problem()
    trust = TrustRegion(theta, torch.optim.Adam(theta), KL, curvature=1.0, measured=OFTEN)
    theta[0].grad = torch.randn(64, generator=torch.Generator().manual_seed(0))
    for k in range(20):
        trust.look(toy, toy_batch(4, seed=0), toy.denoiser, new_batch=k == 0)
        trust.rate(theta[0].grad)
        trust.optimizer.step()
    assert trust.signal == 0


def test_a_gradient_of_zero_stands_still():
    problem = toy_problem()
    trust = region(problem)
    rates = [stepped(trust, problem, toy_batch(4, seed=k), torch.zeros(6).double()) for k in range(3)]
    assert rates == [0, 0, 0] and trust.measured == 0


# in training


@pytest.mark.parametrize(
    "settings",
    [
        {"lora__rank": 4},
        {"lora__rank": 16, "lora__alpha": 1.0},
        {"lora__rank": 16, "lora__alpha": 16.0},
        {"lora__targets": "all"},
        {"sampling__steps": 10},
        {"model__precision": "bfloat16"},
        {"memory__autocast": "bfloat16"},
        {"model__precision": "bfloat16", "training__kl": 1e-4},
    ],
    ids=str,
)
def test_a_step_moves_the_path_as_far_for_every_lora(settings, workshop):
    """By what is told, within a factor of 3, all iterations together: pictures and batches differ by more.

    What a step does is measured without rounding, on the same LoRA in float32.
    """
    made, found, told = trainer(workshop, **settings), 0.0, 0.0
    whole = trainer(workshop, **{**settings, "model__precision": "float32", "memory__autocast": "off"})
    for k in range(16):
        before = [p.detach().clone() for p in made.setup.lora.parameters]
        taken = made.iterate()
        assert isinstance(taken, Iteration)
        if k >= 6:
            put(whole.setup.problem, [p.detach() for p in made.setup.lora.parameters])
            whole.iteration = k
            found += float(moved(whole.setup.problem, whole.batch(), before).mean())
            told += taken.step["kl"]
    assert told > 0.02 * made.setup.config.training.kl, "it moves"
    assert 1 / 3 < found / told < 3, found / told


def test_only_the_length_of_a_step_changes(workshop):
    """From one state on: the moments are bit for bit those at a set rate, and the steps are parallel."""
    trusting = trainer(workshop)
    while not trusting.trust or not trusting.trust.signal:
        trusting.iterate()
    state, directions, expected = trusting.state_dict(), [], None
    for step in ("trust", "rate"):
        made = trainer(workshop, training__step=step)
        made.load_state_dict(state)
        before = flatten(made.setup.lora.parameters).detach().clone()
        made.iterate()
        directions.append(flatten(made.setup.lora.parameters).detach() - before)
        if step == "trust":
            expected = made.optimizer.state_dict()["state"]
        else:
            runs.assert_same(made.optimizer.state_dict()["state"], expected)
    short, long = (direction.double() for direction in directions)
    assert float(short @ long / (short.norm() * long.norm())) == pytest.approx(1, abs=1e-5)
    assert short.norm() != long.norm()


def test_a_stopped_run_is_resumed_as_if_nothing_had_happened(workshop, tmp_path):
    runs.assert_resumed_alike(
        workshop, tmp_path, 40, training__step="trust", training__kl=0.05, training__iterations=8
    )


def test_an_interrupted_look_changes_nothing(workshop):
    runs.assert_an_interrupted_iteration_changes_nothing(trainer(workshop))


def test_nobody_interrupts_a_step(workshop):
    """A request to stop comes before a step or after it, whenever it is made."""
    made = trainer(workshop)
    asked, whole = [0], []

    def should_stop() -> bool:
        asked[0] += 1
        whole.append(made.iteration)
        return False

    object.__setattr__(
        made.setup.problem, "denoiser", Interruptible(made.setup.prompted.denoiser, should_stop)
    )
    for k in range(3):
        made.iterate()
        assert asked[0] and set(whole) == set(range(k + 1)), (
            "the iteration is counted up when the step begins"
        )
    assert made.trust and made.trust.measured == 3


def test_measuring_is_counted(workshop):
    """Of an estimator that costs the same every time; later on most iterations have none."""
    made = trainer(workshop, estimator__name="draft", training__iterations=20)
    told = [event for event in made.run() if isinstance(event, Iteration)]
    spent = [event.evaluations for event in told]
    assert spent.count(min(spent)) > 2 and min(spent[:OFTEN]) > min(spent)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory__optimizer": "adam8bit"}, "training.step = trust with memory.optimizer = adam8bit"),
        ({"training__kl": 0.0}, "training.kl = 0.0"),
    ],
)
def test_what_cannot_work_is_refused(settings, message, workshop):
    with pytest.raises(ConfigError, match=message):
        trainer(workshop, **settings)


def test_a_chain_whose_only_step_adds_no_noise_is_refused(tmp_path):
    import tiny

    folder = runs.workshop(tmp_path)
    tiny.build_checkpoint(folder / "checkpoint", scheduler={"set_alpha_to_one": True})
    with pytest.raises(ConfigError, match="chain of 1 steps, none of which adds noise"):
        trainer(folder, sampling__steps=1, estimator__name="full_bp")
