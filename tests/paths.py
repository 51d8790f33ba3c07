"""How far the path of a chain is from that of other parameters: every step of it, walked and added up."""

from __future__ import annotations

import torch
from torch import Tensor

from rlr_core.chain import divergence, finely, noisy, rollout
from rlr_core.chain.chain import initial_latents
from rlr_core.estimators import Problem
from rlr_core.estimators.problem import Batch


@torch.no_grad()
def moved(problem: Problem, batch: Batch, before: list[Tensor]) -> Tensor:
    """(B,) by how much each picture's path, of many steps, has moved since the parameters were `before`."""
    now = [p.detach().clone() for p in problem.parameters]
    chain, everyone = problem.chain(batch), torch.arange(len(batch))
    put(problem, before)
    steps = noisy(problem.schedule, 1.0).nonzero().flatten().tolist()
    _, states = rollout(chain, initial_latents(chain), everyone, range(problem.steps), keep=steps)
    there = {i: chain.move(states[i], torch.full_like(everyone, i), everyone) for i in steps}
    put(problem, now)
    here = {i: chain.move(states[i], torch.full_like(everyone, i), everyone) for i in steps}
    counts = finely(problem.schedule)
    terms = [counts[i] * divergence(there[i], here[i]) for i in steps]
    return torch.stack(terms).sum(0) / states[steps[0]][0].numel()


@torch.no_grad()
def put(problem: Problem, values: list[Tensor]) -> None:
    for p, value in zip(problem.parameters, values, strict=True):
        p.copy_(value)
