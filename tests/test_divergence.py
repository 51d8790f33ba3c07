"""The path's divergence in closed form against log-density ratios of sampled paths, on the linear-Gaussian chain of `toy.py`.

Both are means over independent pictures, and each picture's pair differs by what has the expectation 0: Student's t of the
differences fails by chance once in a million. Power: with a factor of 2 wrong, and with 5%, the same comparison fails.
"""

from __future__ import annotations

import math

import pytest
import torch
from checks import compare
from torch import Tensor
from toy import STEPS, toy_batch, toy_problem, toy_schedule

from rlr_core.chain import (
    Level,
    Prediction,
    Schedule,
    Transition,
    divergence,
    finely,
    flow_matching,
    initial_latents,
    noisy,
    step_probabilities,
    transition,
    variance_exploding,
    variance_preserving,
    visit,
)
from rlr_core.estimators import Problem

SIZE, REPLICATES, FALSE_FAILURE = 2048, 64, 1e-6
SHIFT = torch.tensor([0.20, -0.10, 0.15, -0.20, 0.30, 0.25], dtype=torch.float64)
"""θ' − θ."""
ONES = torch.ones(STEPS, dtype=torch.float64)


def moved(problem: Problem, amount: float) -> None:
    """θ + amount·`SHIFT`."""
    with torch.no_grad():
        problem.parameters[0].add_(amount * SHIFT[:4].reshape(2, 2))
        problem.parameters[1].add_(amount * SHIFT[4:])


def walked(problem: Problem, seed: int) -> tuple[list[Tensor], list[Transition], list[Transition]]:
    """x_0 … x_T of θ's paths, and the transitions of θ and θ' from them."""
    batch = toy_batch(SIZE, seed)
    chain, everyone = problem.chain(batch), torch.arange(SIZE)
    states, ours, theirs = [initial_latents(chain)], [], []
    for i in range(STEPS):
        step = torch.full((SIZE,), i)
        ours.append(chain.move(states[-1], step, everyone))
        moved(problem, +1)
        theirs.append(chain.move(states[-1], step, everyone))
        moved(problem, -1)
        z = chain.noise.at(step, everyone)
        states.append(ours[-1].mean + ours[-1].scale[:, None] * z)
    return states, ours, theirs


def log_density(x: Tensor, step: Transition) -> Tensor:
    """log N(x; m, s²·I) (n,), from torch's own distribution."""
    return torch.distributions.Normal(step.mean, step.scale[:, None]).log_prob(x).sum(1)


@pytest.fixture(scope="module")
def both() -> tuple[Tensor, Tensor]:
    """Closed form and log-density ratio of the path, (R,) means of replicates each; with a last step that has noise."""
    problem, closed, ratios = toy_problem(), [], []
    with torch.no_grad():
        for seed in range(REPLICATES):
            states, ours, theirs = walked(problem, seed)
            terms = list(zip(states[1:], ours, theirs, strict=True))
            closed.append(sum(divergence(a, b) for _, a, b in terms).mean())  # pyright: ignore
            ratios.append(sum(log_density(x, a) - log_density(x, b) for x, a, b in terms).mean())  # pyright: ignore
    return torch.stack(closed), torch.stack(ratios)


def test_the_closed_form_is_the_mean_log_density_ratio(both):
    closed, ratios = both
    difference = (ratios - closed)[:, None] + closed.mean()
    compared = compare(difference, closed.mean()[None], FALSE_FAILURE)
    assert not compared.differs, compared
    assert 0.1 < float(closed.mean()) < 10


@pytest.mark.parametrize("wrong", [2.0, 0.5, 1.05])
def test_a_wrong_factor_fails_the_comparison(both, wrong):
    closed, ratios = both
    difference = (ratios - wrong * closed)[:, None] + wrong * closed.mean()
    assert compare(difference, wrong * closed.mean()[None], FALSE_FAILURE).differs


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_a_few_drawn_steps_have_the_paths_divergence_as_expectation(eta):
    """Over the draws, of one picture whose path stays the same: exact up to Student's t."""
    problem = toy_problem(eta=eta)
    chain = problem.chain(toy_batch(4, seed=3))
    whole = visit(chain, 1, 4096, eta, ONES, generator(0))
    assert sorted(whole.weights) == list(range(STEPS)), "so many draws have every step"
    visits = [visit(chain, 1, 8, eta, ONES, generator(seed)) for seed in range(1024)]
    moved(problem, 1)
    with torch.no_grad():
        exact = sum(float(divergence(whole.transitions[i], whole._now(i))) for i in whole.weights)
    drawn = torch.tensor([each.divergence() for each in visits], dtype=torch.float64)
    compared = compare(drawn[:, None], torch.tensor([exact], dtype=torch.float64), FALSE_FAILURE)
    assert not compared.differs and drawn.std() > 0, compared
    off = compare(1.05 * drawn[:, None], torch.tensor([exact], dtype=torch.float64), FALSE_FAILURE)
    assert off.differs, "5% are seen"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_that_differs_is_nothing():
    problem = toy_problem()
    assert visit(problem.chain(toy_batch(4, seed=0)), 0, 3, 1.0, ONES, generator(0)).divergence() == 0


def test_a_step_without_noise_is_told_apart():
    still = Transition(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.0, 0.0]).double())
    moved = Transition(torch.tensor([[1.0, 2.0], [3.0, 4.5]]), still.scale)
    assert divergence(still, moved).tolist() == [0.0, math.inf]


ABAR = torch.linspace(0.9999, 0.0, 1000, dtype=torch.float64)
SCHEDULES = {
    "noise to the end": toy_schedule(),
    "no noise at the end, and nothing but noise at the start": variance_preserving(ABAR, torch.tensor([999, 600, 200]), 1.0),
    "flow": flow_matching(torch.linspace(1, 0, 8)),
    "exploding": variance_exploding(torch.tensor([80.0, 5.0, 1.0, 0.1, 0.0])),
}  # fmt: skip


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_every_step_with_noise_is_drawn_and_no_other(schedule: Schedule):
    for counts in (torch.ones(schedule.steps, dtype=torch.float64), finely(schedule)):
        p = step_probabilities(schedule, 1.0, counts)
        assert float(p.sum()) == pytest.approx(1)
        assert ((p > 0) == noisy(schedule, 1.0)).all()
    assert not noisy(schedule, 0.0).any(), "a chain without noise has no path's density"


def test_counted_finely_the_divergence_is_that_of_many_steps():
    """Of denoisers that differ by one velocity at every level: their own sums fall to a fifth from 3 steps to 1000."""
    own, fine = ([summed(steps, counted) for steps in (3, 10, 50, 1000)] for counted in (False, True))
    assert own[0] > 5 * own[-1] and own[1] > 1.4 * own[-1]
    assert fine == pytest.approx([own[-1]] * 4, rel=0.02)


def summed(steps: int, counted: bool) -> float:
    """Σ ½(S'−S)·|x̂ − x̂'|² along SNRs S from 0.01 to 1000."""
    snr = torch.logspace(-2, 3, steps + 1, dtype=torch.float64)
    abar = snr / (1 + snr)
    schedule = variance_preserving(abar, torch.arange(steps), float(abar[-1]))
    counts = finely(schedule) if counted else torch.ones(steps, dtype=torch.float64)
    apart = 0.1 * schedule.sigma[:-1]
    return float((counts * (snr[1:] - snr[:-1]) / 2 * apart**2).sum())


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_term_is_the_growth_of_the_signal_times_what_the_prediction_differs_by(schedule: Schedule):
    """At η = 1: ½(SNR_{i+1} − SNR_i)·|x̂ − x̂'|² (arXiv 2107.00630, eq. 13), from the same noisy latent."""
    x, ours, theirs = torch.randn(3, 1, 5, generator=generator(1), dtype=torch.float64)
    snr = (schedule.alpha / schedule.sigma) ** 2
    for i in (schedule.scales(1.0) > 0).nonzero().flatten().tolist():
        level, following = schedule.level(torch.tensor([i])), schedule.level(torch.tensor([i + 1]))
        one, other = (transition(at(x, sample, level), level, following, 1.0) for sample in (ours, theirs))
        expected = (snr[i + 1] - snr[i]) / 2 * (ours - theirs).square().sum()
        assert float(divergence(one, other)) == pytest.approx(float(expected), rel=1e-9)


def at(x: Tensor, sample: Tensor, level: Level) -> Prediction:
    return Prediction.from_sample(x, sample, level)
