"""Learning curves at equal compute: network evaluations, and seconds on the same machine.

One job trains one method at one learning rate with one seed until it has spent both budgets, and every so often paints held-out
prompts, whose score by the held-out scorer is the curve. Painting is not part of the budgets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from rlr_core.bench.beds import EMBEDDED, Bed, prepared
from rlr_core.bench.methods import Method
from rlr_core.config import RunConfig, from_dict, to_dict

ENDLESS = 10**6
"""Iterations, more than any budget has."""


@dataclass(frozen=True)
class Budget:
    """What every job may spend, and how often it is looked at.

    Attributes:
        evaluations: network evaluations (forward 1, backward 2, guided once) of all pictures together.
        seconds: of training; a job ends when both are spent.
        points: of the curve, evenly apart in evaluations, besides the start.
        pictures: painted at each point.
    """

    evaluations: int
    seconds: float
    points: int
    pictures: int


def learn_settings(
    method: Method, rate: float, seed: int, budget: Budget, bed: Bed = EMBEDDED, **model: Any
) -> dict[str, Any]:
    """What defines a job of `learn`."""
    changes = {"training": {"learning_rate": rate, "seed": seed}, "model": {"threads": 1, **model}}
    job = bed.job("learn", method.config(bed.settings, changes))
    return {**job, "budget": {**vars(budget), "seconds": float(budget.seconds)}}


def learn(settings: dict[str, Any]) -> dict[str, Any]:
    """Train, and look at held-out pictures on the way.

    Returns {"points": [{"evaluations", "seconds", "iteration", "held_out", "error", "reward", "contrast", "diversity"}],
    "failure": why training ended early, or ""}; "error" is the standard error of "held_out".
    """
    from rlr_core.errors import RunError
    from rlr_core.trainer import Trainer
    from rlr_core.trainer.measuring import calibrate

    config, budget = _endless(from_dict(settings["config"])), Budget(**settings["budget"])
    trainer = Trainer(prepared({**settings, "config": to_dict(config)}))
    for _ in calibrate(trainer.setup):  # the first point is on the scale of all
        pass
    spent, seconds, failure = 0.0, 0.0, ""
    points = [_look(trainer, config, budget, spent, seconds)]
    _check(trainer, config, due=True)
    while spent < budget.evaluations or seconds < budget.seconds:
        try:
            event = trainer.iterate()
        except RunError as error:
            failure = str(error).splitlines()[0]
            break
        spent += event.evaluations * config.training.batch_size
        seconds += event.seconds
        at_a_point = spent >= len(points) * budget.evaluations / budget.points
        _check(trainer, config, due=at_a_point or trainer.iteration % config.output.preview_every == 0)
        if at_a_point:
            points.append(_look(trainer, config, budget, spent, seconds))
    return {"points": points, "failure": failure}


def _endless(config: RunConfig) -> RunConfig:
    """The job ends with its budget, unless its schedule knows of an end."""
    if config.training.schedule != "constant":
        return config
    return replace(config, training=replace(config.training, iterations=ENDLESS))


def _check(trainer: Any, config: RunConfig, *, due: bool) -> None:
    """What a run does at its previews and its end, where something follows from it; not part of the budget, as painting."""
    if due and config.training.backtrack and trainer.checked < trainer.iteration:
        for _ in trainer.check():
            pass


def _look(trainer: Any, config: RunConfig, budget: Budget, spent: float, seconds: float) -> dict[str, Any]:
    """Paint held-out prompts at seeds of this job's seed number, the same for every method, and score them."""
    from torch import Tensor

    from rlr_core.chain.noise import derive_seed
    from rlr_core.trainer import score
    from rlr_core.trainer.prompts import deal

    setup, seed = trainer.setup, config.training.seed
    prompts = deal(setup.held_out_prompts, budget.pictures, 0, seed)
    seeds = [derive_seed("bench", seed, j) >> 32 for j in range(budget.pictures)]
    with trainer.averaged():
        images = setup.painter(prompts, seeds)
        assert isinstance(images, Tensor), "curves are of pictures of one size"
    texts = [prompt.scored for prompt in prompts]
    held_out, rewards = (score(reward, images, texts).total for reward in (setup.held_out, setup.reward))
    return {
        "evaluations": round(spent),
        "seconds": round(seconds, 3),
        "iteration": trainer.iteration,
        "held_out": round(float(held_out.mean()), 5),
        "error": round(float(held_out.std() / math.sqrt(len(held_out))), 5),
        "reward": round(float(rewards.mean()), 5),
        "contrast": round(float(images.flatten(1).std(1).mean()), 5),
        "diversity": round(float(images.std(0).mean()), 5),
    }
