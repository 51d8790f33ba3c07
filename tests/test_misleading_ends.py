"""Runs that teach nothing say why, early and at their end; a reward of any scale teaches the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

import runs

from rlr_core.errors import CheckpointError
from rlr_core.rewards import FunctionReward
from rlr_core.runs import log, runner
from rlr_core.trainer import Materials, Rewards, Skipped, Trainer, prepare
from rlr_core.trainer.events import Iteration
from rlr_core.trainer.misgivings import misgiving

QUICK = {"output__evaluation": 0, "output__preview_every": 0, "output__previews": 1, "sampling__steps": 3}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


def redness(images, prompts):
    return images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))


def scaled(scale: float) -> Callable[..., torch.Tensor]:
    return lambda images, prompts: scale * redness(images, prompts)


def rewarded(function: Callable[..., Any], *, gradient: bool = True) -> Materials:
    reward = FunctionReward("mine", gradient, function)
    return Materials(rewards=Rewards(reward, FunctionReward("held out", True, redness)))


def learned(workshop: Path, scale: float, name: str, **settings: Any) -> torch.Tensor:
    """What three iterations change, flat."""
    overrides = {"training__iterations": 3, "training__max_grad_norm": 0.1, **QUICK, **settings}
    config = runs.config(workshop, estimator__name=name, **overrides)
    with prepare(config, materials=rewarded(scaled(scale))) as setup:
        told = list(Trainer(setup).run())
        assert not any(isinstance(event, Skipped) for event in told)
        return torch.cat([p.detach().flatten() for p in setup.lora.parameters])


@pytest.mark.parametrize(
    ("name", "settings"),
    [("lookahead", {}), ("lookahead", {"estimator__unit": False}), ("rlr", {}), ("zeroth", {}), ("ddpo", {}),
     ("ddpo", {"estimator__normalise": True})],
)  # fmt: skip
def test_a_reward_times_1e30_teaches_the_same(name, settings, workshop):
    """All gradients are cut to one length, so that the scale cancels; before, that of 1e30 was cut to 0."""
    usual, large = (learned(workshop, scale, name, **settings) for scale in (1e6, 1e30))
    assert usual.abs().max() > 0
    assert (large - usual).norm() < 0.01 * usual.norm(), (
        "single numbers are rounded otherwise, and Adam divides by them"
    )


def test_a_gradient_that_adam_cannot_square_is_skipped_and_said(workshop):
    config = runs.config(
        workshop, estimator__name="rlr", training__iterations=2, training__max_grad_norm=0.0, **QUICK
    )
    with prepare(config, materials=rewarded(scaled(1e30))) as setup:
        told = [event for event in Trainer(setup).run() if isinstance(event, Skipped)]
    assert len(told) == 2 and "set training.max_grad_norm" in told[0].reason


ENDS = {
    "constant": (lambda images, prompts: [0.25] * len(prompts), {}, "all pictures got the reward 0.25"),
    "skipped": (
        lambda images, prompts: [math.nan] * len(prompts),
        {"training__max_skipped": 9},
        r"all 4 iterations were skipped, the last because 4 of 4 rewards are NaN(.|\n)*check the reward",
    ),
    "rate": (redness, {"training__learning_rate": 0.0}, r"training\.learning_rate is 0"),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_says_what_happened_and_the_log_said_it_early(name, workshop, tmp_path):
    function, settings, message = ENDS[name]
    config = runs.config(workshop, estimator__name="half", training__iterations=4, **{**QUICK, **settings})
    with pytest.raises(CheckpointError, match=f"nothing was learned.*{message}") as caught:
        runner.start(config, tmp_path / "run", materials=rewarded(function, gradient=False))
    assert "for an iteration or more" not in str(caught.value)
    told = log.read(tmp_path / "run" / "events.jsonl")
    warnings = [event["message"] for event in told if event["type"] == "warning"]
    expected = {
        "constant": ["iteration 3: all pictures got the reward"],
        "rate": ["iteration 1: training.learn"],
    }
    assert len(warnings) == len(expected.get(name, []))
    assert all(said.startswith(start) for said, start in zip(warnings, expected.get(name, []), strict=True))


def iteration(number: int, error: float = 0.1, gradient: float = 1.0) -> Iteration:
    return Iteration(number, 0.5, error, {}, gradient, 1.0, 0.0)


def test_misgivings(workshop):
    config = runs.config(workshop)
    assert misgiving(config, iteration(3)) == misgiving(config, iteration(3, error=math.nan)) == ""
    assert misgiving(config, Skipped(3, "why", 0.0)) == misgiving(config, iteration(2, gradient=0.0)) == ""
    assert "the gradient is 0" in misgiving(config, iteration(3, gradient=0.0))
    assert "norm is 1e-20" in misgiving(config, iteration(3, gradient=1e-20))
    learning = runs.config(workshop, estimator__name="learned_critic")
    assert misgiving(learning, iteration(3, gradient=0.0)) == misgiving(learning, iteration(25)) == ""
    assert "has not guessed right yet" in misgiving(learning, iteration(25, gradient=0.0))
    assert "all pictures got the reward 0.5" in misgiving(learning, iteration(3, error=0.0))
    assert "all pictures got the reward 0.5" in misgiving(config, iteration(3, error=0.0))
