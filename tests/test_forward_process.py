"""The forward-process loss: DiffusionNFT's, written out; what it reuses, and that it is climbed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toy import STEPS, toy_batch, toy_problem

from rlr_core.config import EstimatorConfig
from rlr_core.errors import EstimatorError
from rlr_core.estimators import build
from rlr_core.estimators.forward_process import FURTHEST, ForwardProcess


def made(**settings: Any) -> ForwardProcess:
    estimator = build(EstimatorConfig(name="nft", **{"chunk": 2, "draws": 4, **settings}), STEPS)
    assert isinstance(estimator, ForwardProcess)
    return estimator


def published(predicted: Tensor, old: Tensor, x: Tensor, advantages: Tensor, beta: float) -> Tensor:
    """The loss of arXiv 2509.16117, r·|x̂⁺ − x|² + (1−r)·|x̂⁻ − x|², over 2β and the old prediction's error."""
    positive = (1 - beta) * old + beta * predicted
    negative = (1 + beta) * old - beta * predicted
    r = (1 + advantages) / 2
    losses = [(each - x).square().flatten(1).mean(1) for each in (positive, negative)]
    scale = (old - x).square().flatten(1).mean(1).sqrt()
    return -((r * losses[0] + (1 - r) * losses[1]) / (2 * beta) / scale).mean()


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
def test_the_gradient_is_that_of_the_published_loss(beta):
    draws = torch.Generator().manual_seed(0)
    predicted, old, x = (torch.randn(5, 3, 4, 4, generator=draws, dtype=torch.float64) for _ in range(3))
    advantages = torch.tensor([-1.0, -0.3, 0.0, 0.4, 1.0]).double()
    predicted.requires_grad_()
    (ours,) = torch.autograd.grad(made(proximity=beta)._objective(predicted, old, x, advantages), predicted)
    (theirs,) = torch.autograd.grad(published(predicted, old, x, advantages, beta), predicted)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-9)


def test_one_rollout_serves_its_uses():
    """It is painted once; later uses have what was predicted at the first one, at the same noise, to stay near to."""
    estimator, problem, batch = made(batch_reuse=3), toy_problem(), toy_batch(8, seed=0)
    first = estimator(problem, batch)
    again = estimator(problem, batch)
    assert (first.cost.evaluations, again.cost.evaluations) == (8 * (STEPS + 4 * 3), 8 * 4 * 3)
    torch.testing.assert_close(first.gradient, again.gradient)  # nothing has moved yet
    with torch.no_grad():
        problem.parameters[0].add_(0.1)
    third = estimator(problem, batch)
    assert not torch.equal(first.gradient, third.gradient) and torch.equal(first.rewards, third.rewards)
    assert estimator(problem, toy_batch(8, seed=1)).cost.evaluations == 8 * (STEPS + 4 * 3)


def test_what_moved_is_held_back():
    """The nearer predictions are to be kept, the more a move of θ is undone."""
    pulls = {}
    for proximity in (0.0, 1e4):
        estimator, problem, batch = made(batch_reuse=2, proximity=proximity), toy_problem(), toy_batch(8, 0)
        estimator(problem, batch)
        with torch.no_grad():
            problem.parameters[0].add_(0.1)
        pulls[proximity] = estimator(problem, batch).gradient[:4].sum()
    assert pulls[1e4] < -100 * abs(pulls[0.0])


def test_it_is_climbed():
    problem, estimator, rewards = toy_problem(differentiable=False), made(), []
    optimizer = torch.optim.Adam(problem.parameters, lr=0.02)
    for k in range(80):
        estimate = estimator(problem, toy_batch(32, seed=k, group=16))
        rewards.append(float(estimate.rewards.mean()))
        for p, part in zip(
            problem.parameters, estimate.gradient.split([p.numel() for p in problem.parameters]), strict=True
        ):
            p.grad = -part.view_as(p)
        optimizer.step()
    assert sum(rewards[-10:]) / 10 > sum(rewards[:10]) / 10 + 0.3, rewards


def test_advantages_are_in_deviations_and_bounded():
    estimator, batch = made(), toy_batch(64, seed=0, group=32)
    rewards = torch.zeros(64).double()
    rewards[0] = 1e6
    found = estimator._advantages(rewards, batch)
    assert float(found[0]) == FURTHEST and float(found[1:].abs().max()) < 1


def test_one_picture_is_refused():
    with pytest.raises(EstimatorError, match="single picture"):
        made(chunk=1).check(toy_problem(), 1)
