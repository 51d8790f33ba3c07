"""Where an estimator may start its sub-chains is measured before training, on pictures of training prompts."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor

from rlr_core.chain import Chain, Cost, Counted, initial_latents, predictions
from rlr_core.chain.noise import derive_seed
from rlr_core.estimators.by_ranking import ByRanking
from rlr_core.estimators.lookahead import Lookahead
from rlr_core.estimators.ranking import agreement
from rlr_core.trainer.events import Painting, Ranked
from rlr_core.trainer.prompts import deal
from rlr_core.trainer.sampling import score
from rlr_core.trainer.seeding import seeded
from rlr_core.trainer.setup import Setup

PROMPTS, EACH = 8, 4
"""So many prompts, and pictures of each."""


def measure_starts(setup: Setup, iteration: int) -> Generator[Painting | Ranked, None, None]:
    """Let an estimator that asks for it learn where predicted pictures rank as finished ones do; of the first size."""
    estimator, problem = setup.estimator, setup.problem
    if not isinstance(estimator, Lookahead | ByRanking) or not estimator.measures(problem):
        return
    cost, mine, found = Cost(), problem.collective.mine(PROMPTS), []
    for number in mine:
        yield Painting(iteration, "starts", EACH * len(found), EACH * len(mine))
        with seeded(derive_seed("starts", number)):
            found.append(_rewards(setup, number, cost))
    rewards = torch.stack(found) if found else torch.empty(0, EACH, problem.steps, dtype=torch.float64)
    rewards = problem.collective.gather(rewards)
    tau = agreement(rewards, rewards[..., -1])
    spent = torch.tensor([float(cost.evaluations)], dtype=torch.float64)
    starts = estimator.learn(tau, round(float(problem.collective.sum(spent))))
    told = [] if tau is None else [round(float(value), 3) for value in tau]
    finished = isinstance(estimator, ByRanking) and starts is None
    yield Ranked(iteration, told, [starts.start, starts.stop] if starts else [], finished)


@torch.no_grad()
def _rewards(setup: Setup, number: int, cost: Cost) -> Tensor:
    """Of the pictures that are predicted at each step for one prompt: (EACH, T), on the CPU.

    The last one stands for the finished picture, from which it differs by what noise the last level leaves.
    """
    canvas, seed = setup.canvases[0], setup.config.training.seed
    prompt = deal(setup.prompts, PROMPTS, 0, derive_seed(seed, "starts"))[number]
    seeds = [derive_seed(seed, "starts", number, j) for j in range(EACH)]
    chain = Chain(
        Counted(setup.prompted.denoiser, cost),
        canvas.schedule,
        setup.prompted.conditioning([setup.stages.schedule(prompt, canvas.schedule)] * EACH),
        canvas.noise(seeds, setup.model.device),
        setup.config.sampling.eta,
    )
    found = []
    for _, predicted in predictions(chain, initial_latents(chain), torch.arange(EACH)):
        images = setup.model.decode(predicted.sample).cpu()
        found.append(score(setup.reward, images, [prompt.scored] * EACH).total)
    return torch.stack(found, 1).double()
