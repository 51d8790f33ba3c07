"""How noisy each sub-chain's half-order term is (with h = 1: each step's), beside the same term back-propagated.

The steps before the first-order tail are cut into sub-chains, and each one's term t_j is estimated for the same pictures, one
by one. Told are the second moments E|t_j|² over E|f|² of full back-propagation, and what they make of an estimator that gives
a picture one of n sub-chains, weighted by 1/p_j: n·ΣE|t_j|² with p_j = 1/n, and (Σ√E|t_j|²)² with the p_j that make it least.
An end that learns does so from all sub-chains of every picture, and knows more than it would from one of them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlr_core.bench.beds import EMBEDDED, Bed
from rlr_core.bench.methods import Method
from rlr_core.bench.statistics import jackknife
from rlr_core.bench.variance import trainer_at_a_point
from rlr_core.chain import ChainLike, Cost, advance, initial_latents, rollout
from rlr_core.estimators import (
    AllSubChains,
    Baseline,
    Batch,
    HalfOrder,
    Problem,
    RandomStart,
    RecursiveLikelihoodRatio,
    build,
)
from rlr_core.estimators.base import check_differentiable
from rlr_core.estimators.problem import flatten
from rlr_core.estimators.sub_chains import SubChains

WARM_UP = 2
"""Batches that an end which learns, from every sub-chain of every picture, sees before it is measured."""


def terms_settings(
    method: Method, pictures: int, spread: float, bed: Bed = EMBEDDED, **model: Any
) -> dict[str, Any]:
    """What defines a job of `terms`.

    Args:
        spread: standard deviation of the random numbers that are added to the LoRA, which is zero when new.
    """
    job = bed.job("terms", method.config(bed.settings, {"model": {"threads": 1, **model}}))
    return {**job, "pictures": pictures, "spread": spread}


def has_terms(method: Method) -> bool:
    """Whether its gradient is the sum of the terms of a partition's sub-chains."""
    config = method.config(EMBEDDED.settings)
    estimator = build(config.estimator, config.sampling.steps)
    half = estimator.half if isinstance(estimator, RecursiveLikelihoodRatio) else None
    return half is not None and not isinstance(half.sub_chains, RandomStart)


class Squares(NamedTuple):
    """Of one picture: |t_j|² as estimated (J,) and back-propagated (J,), |f|², and the estimates' network evaluations (J,)."""

    estimated: np.ndarray
    exact: np.ndarray
    full: float
    cost: np.ndarray


def terms(settings: dict[str, Any]) -> dict[str, Any]:
    """{"terms": [row of each sub-chain], "uniform", "best"}; moments as {"value", "half_width"}.

    Raises `EstimatorError` for a reward without gradient.
    """
    trainer = trainer_at_a_point(settings)
    setup, found = trainer.setup, []
    estimator, size = setup.estimator, setup.config.training.batch_size
    batches = -(-settings["pictures"] // size)
    assert isinstance(estimator, RecursiveLikelihoodRatio) and estimator.half
    check_differentiable(setup.problem, "the back-propagated terms")
    half = HalfOrder(AllSubChains(estimator.half.sub_chains.length), estimator.half.end)
    before = setup.problem.steps - (estimator.first.high if estimator.first else 0)
    parts = half.sub_chains.draw(size, range(before), torch.Generator())
    for trainer.iteration in range(WARM_UP + batches):
        found += squares(setup.problem, trainer.batch(), half, estimator.baseline, parts)
    kept = found[WARM_UP * size :][: settings["pictures"]]
    estimated, exact, full, cost = (np.array(values) for values in zip(*kept, strict=True))

    def share(moment: Any) -> dict[str, float]:
        """Of E|f|²."""
        return asdict(jackknife(lambda chosen: float(moment(chosen) / full[chosen].mean()), len(full)))

    rows = [
        {
            "start": int(drawn.start[0]),
            "stop": int(drawn.stop[0]),
            "cost": float(cost[:, j].mean()),
            "estimated": share(lambda chosen, j=j: estimated[chosen, j].mean()),
            "exact": share(lambda chosen, j=j: exact[chosen, j].mean()),
        }
        for j, drawn in enumerate(parts)
    ]
    return {
        "terms": rows,
        "uniform": share(lambda chosen: len(parts) * estimated[chosen].mean(0).sum()),
        "best": share(lambda chosen: np.sqrt(estimated[chosen].mean(0)).sum() ** 2),
    }


def squares(
    problem: Problem,
    batch: Batch,
    half: HalfOrder,
    baseline: Baseline,
    parts: list[SubChains],
) -> list[Squares]:
    """Of each picture of a batch; the end and the baseline learn."""
    cost, everyone = Cost(), torch.arange(len(batch))
    problem = problem.counted(cost)
    chain, found = problem.chain(batch), []
    with torch.no_grad():
        x, latents = rollout(
            chain, initial_latents(chain), everyone, range(problem.steps), keep=range(problem.steps)
        )
        rewards = problem.score(x, batch, everyone)
    latents[problem.steps] = x
    beta = baseline(rewards, batch.prompts, everyone)
    for j in everyone.split(1):
        estimated, costs = [], []
        for drawn in parts:
            start, spent = int(drawn.start[0]), cost.evaluations
            gradients = half.gradients(
                problem, chain, batch, j, latents[start][j], drawn.of(j), rewards[j], beta[j]
            )
            estimated.append(_square(torch.stack(list(gradients.values())).sum(0)))
            costs.append(cost.evaluations - spent)
        exact = back_propagated(problem, chain, batch, j, {step: x[j] for step, x in latents.items()})
        mine = [_square(exact[int(drawn.start[0]) : int(drawn.stop[0])].sum(0)) for drawn in parts]
        found.append(Squares(np.array(estimated), np.array(mine), _square(exact.sum(0)), np.array(costs)))
    baseline.observe(rewards, batch.prompts)
    half.end.settle(problem.collective)
    return found


def back_propagated(
    problem: Problem, chain: ChainLike, batch: Batch, sample: Tensor, latents: dict[int, Tensor]
) -> Tensor:
    """Every step's term of the exact gradient of one picture, (T, P); `latents` are x_0 … x_T (1, …)."""
    found = []
    with torch.enable_grad():
        x = latents[problem.steps].requires_grad_()
        (adjoint,) = problem.slopes(problem.score(x, batch, sample).sum(), [x])
        for i in reversed(range(problem.steps)):
            x = latents[i].requires_grad_()
            moved = problem.amplified(advance(chain, x, torch.full_like(sample, i), sample))
            adjoint, *slopes = problem.slopes((adjoint * moved).sum(), [x, *problem.parameters])
            found.append(flatten(slopes))
    return torch.stack(found[::-1])


def _square(gradient: Tensor) -> float:
    return float(gradient.double().square().sum())
