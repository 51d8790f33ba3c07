"""What a picture's gradient tells: the lookahead's (h = 1) at every step, and full back-propagation's, for the same pictures.

With g_j from picture j, over n pictures with prompts and noise of their own:

    tail       = the longest |g_j| over the median one
    signal     = mean of ⟨g_k, g_l⟩ over pairs k ≠ l, over the mean of |g_j|²: the share that pictures agree on
    direction  = the same of the directions g_j/|g_j|
    agreement  = mean of ⟨g_k/|g_k|, f_l/|f_l|⟩ over pairs k ≠ l, f of full back-propagation

A mean of B pictures has a signal-to-noise ratio of about B·signal: signal over cost ranks gradients that point the same way.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlr_core.bench.beds import EMBEDDED, Bed
from rlr_core.bench.methods import Method
from rlr_core.bench.statistics import jackknife, ratio, squared_mean
from rlr_core.bench.variance import trainer_at_a_point
from rlr_core.chain import initial_latents, rollout
from rlr_core.estimators import Batch, Problem


def steps_settings(
    method: Method, pictures: int, spread: float, warm_up: int, bed: Bed = EMBEDDED, **model: Any
) -> dict[str, Any]:
    """What defines a job of `steps`.

    Args:
        spread: standard deviation of the random numbers that are added to the LoRA, which is zero when new.
        warm_up: iterations of the method before anything is measured.
    """
    job = bed.job("steps", method.config(bed.settings, {"model": {"threads": 1, **model}}))
    return {**job, "pictures": pictures, "spread": spread, "warm_up": warm_up}


def steps(settings: dict[str, Any]) -> dict[str, Any]:
    """{"steps": [row of each step 0 … T-1, and of full back-propagation]}; values as {"value", "half_width"}."""
    trainer = trainer_at_a_point(settings)
    for _ in range(settings["warm_up"]):
        trainer.iterate()
    problem, found = trainer.setup.problem, []
    while len(found) < settings["pictures"]:
        batch = trainer.batch()
        trainer.iteration += 1
        found += [_gradients(problem, batch, torch.tensor([j])) for j in range(len(batch))]
    gradients = torch.stack(found[: settings["pictures"]]).float().numpy()  # (n, T+1, P)
    full, T = gradients[:, -1], problem.steps
    names, costs = [*map(str, range(T)), "full BP"], [*(a + 3 for a in range(T)), 4 * T]
    rows = [_row(gradients[:, k], full) for k in range(T + 1)]
    return {
        "steps": [{"at": at, "cost": cost, **row} for at, cost, row in zip(names, costs, rows, strict=True)]
    }


def _gradients(problem: Problem, batch: Batch, sample: Tensor) -> Tensor:
    """Of one picture: the lookahead's at every step, then full back-propagation's; (T+1, P)."""
    chain = problem.chain(batch)
    x0 = initial_latents(chain)[sample]
    with torch.no_grad():
        _, latents = rollout(chain, x0, sample, range(problem.steps), keep=range(problem.steps))
    found = []
    with torch.enable_grad():
        for step, x in latents.items():
            predicted = chain.predict(x, torch.full_like(sample, step), sample).sample
            found.append(problem.gradient(problem.score(predicted, batch, sample).sum()))
        x, _ = rollout(chain, x0, sample, range(problem.steps), rerun=True)
        found.append(problem.gradient(problem.score(x, batch, sample).sum()))
    return torch.stack(found).cpu()


def _row(gradients: np.ndarray, full: np.ndarray) -> dict[str, Any]:
    """The statistics of gradients (n, P)."""
    lengths, n = np.linalg.norm(gradients, axis=1), len(gradients)
    directions, others = gradients / lengths[:, None], full / np.linalg.norm(full, axis=1, keepdims=True)
    gram, across = gradients @ gradients.T, directions @ others.T
    measured = {
        "signal": jackknife(ratio(squared_mean(gram), lambda chosen: float(np.diag(gram)[chosen].mean())), n),
        "direction": jackknife(squared_mean(directions @ directions.T), n),
        "agreement": jackknife(squared_mean((across + across.T) / 2), n),
    }
    return {
        "median": float(np.median(lengths)),
        "tail": float(lengths.max() / np.median(lengths)),
        **{name: asdict(value) for name, value in measured.items()},
    }
