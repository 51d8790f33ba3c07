"""Where predicted pictures rank as finished ones: told apart from prompts that are easy, and used where it is measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

import runs
from toy import toy_batch, toy_problem

from rlr_core.chain import initial_latents, predictions, rollout
from rlr_core.config import EstimatorConfig
from rlr_core.estimators import build, by_ranking
from rlr_core.estimators.by_ranking import ByRanking
from rlr_core.estimators.lookahead import Lookahead
from rlr_core.estimators.ranking import ALIKE, agreement, trusted
from rlr_core.trainer import Iteration, Trainer, prepare
from rlr_core.trainer.events import Painting, Ranked
from rlr_core.trainer.starts import EACH, PROMPTS

STEPS = 8


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# How well predictions rank


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_of_correlated_gaussians_it_is_what_theory_says(rho: float) -> None:
    """τ = 2/π·asin(ρ), for as many pairs as tell τ to 0.02."""
    finished, other = noise(500, 8), noise(500, 8, seed=1)
    predicted = rho * finished + math.sqrt(1 - rho**2) * other
    tau = agreement(predicted[..., None], finished)
    assert tau is not None
    assert float(tau) == pytest.approx(2 / math.pi * math.asin(rho), abs=0.02)


def test_knowing_which_prompts_are_easy_is_not_knowing_which_pictures_are_good() -> None:
    easy = 10 * noise(200, 1)
    finished = easy + noise(200, 4, seed=1)
    predicted = easy + noise(200, 4, seed=2)
    assert torch.corrcoef(torch.stack([predicted.flatten(), finished.flatten()]))[0, 1] > 0.95
    tau = agreement(predicted[..., None], finished)
    assert tau is not None and abs(float(tau)) < 0.1


def test_scores_that_are_not_finite_are_in_no_pair() -> None:
    finished = noise(20, 4)
    spoiled = finished.clone()
    spoiled[3, 1] = math.nan
    for predicted, truth in ((finished, spoiled), (finished, finished)):
        tau = agreement(predicted[..., None], truth)
        assert tau is not None and float(tau) == 1


def test_nothing_is_told_from_rewards_that_do_not_differ() -> None:
    assert agreement(noise(8, 4, STEPS), torch.ones(8, 4)) is None
    assert agreement(noise(8, 4, STEPS), torch.full((8, 4), math.nan)) is None


@pytest.mark.parametrize(
    ("tau", "starts"),
    [
        ([0.1, 0.2, 0.6, 0.7, 0.8, 0.8, 0.9, 0.9, 1.0, 1.0], range(2, 6)),
        ([0.9] * 10, range(0, 5)),
        ([0.9, 0.9, 0.9, 0.0, 0.0, 0.0, 0.9, 0.9, 0.9, 1.0], range(6, 8)),
        ([0.0] * 9 + [1.0], range(9, 10)),
    ],
)
def test_starts_are_of_the_earlier_half_of_those_that_stay_trusted(tau: list[float], starts: range) -> None:
    assert trusted(torch.tensor(tau, dtype=torch.float64)) == starts


def test_one_poor_step_among_good_ones_is_noise() -> None:
    tau = torch.full((STEPS,), 0.8, dtype=torch.float64)
    tau[4] = ALIKE - 0.1
    assert trusted(tau).start == 0


# The walk


def test_what_is_predicted_on_the_way_is_what_the_rollout_goes_through() -> None:
    problem, batch = toy_problem(), toy_batch(4, seed=3)
    chain, everyone = problem.chain(batch), torch.arange(4)
    x0 = initial_latents(chain)
    _, kept = rollout(chain, x0, everyone, range(problem.steps), keep=range(problem.steps))
    walked = list(predictions(chain, x0, everyone))
    assert len(walked) == problem.steps
    for i, (x, predicted) in enumerate(walked):
        assert torch.equal(x, kept[i])
        direct = chain.predict(x, torch.full((4,), i), everyone)
        assert torch.equal(predicted.sample, direct.sample)


# The estimator


def starts(estimator: Lookahead, draws: int = 40) -> set[int]:
    problem = toy_problem()
    return {int(a) for k in range(draws) for a in estimator._starts(problem, toy_batch(4, seed=k))}


def test_starts_are_those_that_were_learned() -> None:
    estimator = Lookahead(1, (0.0, 0.5), measured=True)
    assert starts(estimator) == {0, 1}, "before it knows, the window that is set"
    assert estimator.measures(toy_problem())
    assert estimator.learn(torch.tensor([0.0, 0.0, 0.9, 1.0], dtype=torch.float64), 100) == range(2, 3)
    assert starts(estimator) == {2}
    assert not estimator.measures(toy_problem())
    again = Lookahead(1, (0.0, 0.5), measured=True)
    again.load_state_dict(estimator.state_dict())
    assert starts(again) == {2} and not again.measures(toy_problem())


def test_where_nothing_can_be_told_the_window_that_is_set_counts_and_is_not_measured_again() -> None:
    estimator = Lookahead(1, (0.5, 1.0), measured=True)
    assert estimator.learn(None, 100) is None
    again = Lookahead(1, (0.5, 1.0), measured=True)
    again.load_state_dict(estimator.state_dict())
    assert starts(again) == {2, 3} and not again.measures(toy_problem())


def test_what_measuring_cost_is_told_once() -> None:
    estimator, problem = Lookahead(1, measured=True), toy_problem()
    estimator.learn(torch.tensor([0.0, 0.0, 0.9, 1.0], dtype=torch.float64), 100)
    first, second = (estimator(problem, toy_batch(4, seed=3)).cost.evaluations for _ in range(2))
    assert first == second + 100


# The lookahead or the finished picture


def made(**settings: Any) -> ByRanking:
    estimator = build(EstimatorConfig(name="auto", first_order_steps=2, chunk=1, **settings), 4)
    assert isinstance(estimator, ByRanking)
    return estimator


@pytest.mark.parametrize(
    ("tau", "chosen", "starts"),
    [
        ([0.0, 0.9, 0.9, 1.0], "lookahead", range(1, 3)),
        ([0.0, 0.0, 0.0, 1.0], "flow_bp", None),
        ([0.9, 0.0, 0.0, 1.0], "flow_bp", None),
        (None, "flow_bp", None),
    ],
)
def test_predicted_pictures_are_looked_at_where_they_rank_early(
    tau: list[float] | None, chosen: str, starts: range | None
) -> None:
    estimator, problem, batch = made(), toy_problem(), toy_batch(4, seed=3)
    assert estimator.measures(problem)
    known = None if tau is None else torch.tensor(tau, dtype=torch.float64)
    assert estimator.learn(known, 100) == starts and not estimator.measures(problem)
    alone = build(EstimatorConfig(name=chosen, first_order_steps=2, chunk=1), 4)
    if isinstance(alone, Lookahead):
        alone.learn(known, 0)
    expected, found = alone(problem, batch), estimator(problem, batch)
    assert torch.equal(found.gradient, expected.gradient)
    assert found.cost.evaluations == expected.cost.evaluations + 100
    assert estimator.scores_predictions == alone.scores_predictions
    again = made()
    again.load_state_dict(estimator.state_dict())
    assert not again.measures(problem) and torch.equal(again(problem, batch).gradient, found.gradient)
    assert again(problem, batch).cost.evaluations == expected.cost.evaluations, (
        "what measuring cost is told once"
    )


def test_before_it_is_measured_the_finished_picture_is_looked_at() -> None:
    estimator = made()
    assert estimator.chosen is estimator.finished and estimator.state_dict() == {}


# A run


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


LOOKAHEAD = {"estimator__name": "lookahead", "estimator__chunk": 1}


def trainer(workshop: Path, **overrides: Any) -> Trainer:
    settings = {"output__evaluation": 0, **LOOKAHEAD, "estimator__starts": "measured"}
    return Trainer(prepare(runs.config(workshop, **{**settings, **overrides})))


def test_a_run_measures_before_it_trains_and_says_so(workshop: Path) -> None:
    mine = trainer(workshop)
    events = list(mine.train())
    (ranked,) = (event for event in events if isinstance(event, Ranked))
    taken = [event for event in events if isinstance(event, Iteration)]
    assert events.index(ranked) < events.index(taken[0])
    T = mine.setup.problem.steps
    assert len(ranked.tau) == T and ranked.tau[-1] == 1 and ranked.starts[0] < ranked.starts[1] <= T
    painted = [event.done for event in events if isinstance(event, Painting) and event.purpose == "starts"]
    assert painted == [EACH * k for k in range(PROMPTS)]
    spent = PROMPTS * EACH * T / mine.setup.config.training.batch_size
    assert spent < taken[0].evaluations < spent + T + 3
    assert all(event.evaluations < T + 3 for event in taken[1:])


def test_a_run_that_goes_on_knows_it_already(workshop: Path) -> None:
    whole = trainer(workshop)
    for _ in range(3):
        whole.iterate()
    first = trainer(workshop)
    first.iterate()
    second = trainer(workshop)
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.iterate()
    assert not any(isinstance(event, Ranked) for event in second._ready())
    pairs = zip(whole.setup.lora.parameters, second.setup.lora.parameters, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_run_says_that_it_looks_at_finished_pictures(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for share, finished in ((0.0, True), (1.0, False)):
        monkeypatch.setattr(by_ranking, "EARLY", share)
        mine = trainer(
            workshop, estimator__name="auto", estimator__starts="set", estimator__first_order_steps=2
        )
        (ranked,) = (event for event in mine.train() if isinstance(event, Ranked))
        assert ranked.finished == finished == (not ranked.starts)
        assert len(ranked.tau) == mine.setup.problem.steps


def test_without_being_asked_nothing_is_measured(workshop: Path) -> None:
    mine = trainer(workshop, estimator__starts="set")
    assert list(mine._ready()) == []
