"""Pictures that only measure: of held-out prompts, at fixed seeds that training never uses.

Painting takes long on a big model, so everything here is a generator that tells how far it has come and returns what it has
measured. Rewards that draw random numbers draw the same ones every time: two checks differ by their pictures alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from rlr_core.chain.noise import derive_seed
from rlr_core.dcot import AS_THE_RUN, StagePrompts
from rlr_core.rewards import Pictures, Reward, Scores, statistics, stills
from rlr_core.trainer.events import Evaluation, Painting, Preview
from rlr_core.trainer.prompts import deal
from rlr_core.trainer.sampling import in_order, score
from rlr_core.trainer.seeding import seeded
from rlr_core.trainer.setup import Setup

CALIBRATION = 32
"""Pictures that a reward takes its scale from."""
Wear = Callable[[], AbstractContextManager[None]]
"""The model has the LoRA that is to be measured in it, while the context lasts."""


def preview(setup: Setup, iteration: int, wear: Wear) -> Generator[Painting, None, Preview]:
    """Paint and score a preview."""
    prompts, seeds = _held_out(setup, setup.config.output.previews, "preview")
    own = [prompt.shown.seed for prompt in prompts]
    seeds = [seed if mine is None else mine for seed, mine in zip(seeds, own, strict=True)]
    images = yield from _painted(setup, Painting(iteration, "preview", 0, len(prompts)), prompts, seeds, wear)
    shown = stills(images)
    return Preview(
        iteration=iteration,
        prompts=[prompt.scored for prompt in prompts],
        seeds=seeds,
        images=shown,
        scores=_scores(setup.held_out, images, prompts, "held out").total,
        watched=_watched(setup, images, prompts),
        statistics=statistics(shown),
    )


def evaluation(
    setup: Setup, when: str, iteration: int, count: int, wear: Wear
) -> Generator[Painting, None, Evaluation]:
    """Paint the first `count` pairs of the evaluation and score them by every reward."""
    prompts, seeds = _held_out(setup, count, "evaluation")
    prompts = _as_trained(prompts)
    images = yield from _painted(setup, Painting(iteration, when, 0, count), prompts, seeds, wear)
    trained, shown = _scores(setup.reward, images, prompts, "trained"), stills(images)
    return Evaluation(
        when=when,
        prompts=[prompt.scored for prompt in prompts],
        seeds=seeds,
        images=shown,
        scores=_scores(setup.held_out, images, prompts, "held out").total,
        rewards=trained.total,
        iteration=iteration,
        parts=trained.parts,
        watched=_watched(setup, images, prompts),
        statistics=_statistics(shown, setup.config.alarm.pictures),
    )


def calibrate(setup: Setup, iteration: int = 0) -> Generator[Painting, None, None]:
    """Give the reward the scale that it lacks, from pictures of training prompts."""
    if setup.reward.calibrated:
        return
    seed = setup.config.training.seed
    prompts = _as_trained(deal(setup.prompts, CALIBRATION, 0, seed))
    seeds = [derive_seed(seed, "calibration", j) >> 32 for j in range(CALIBRATION)]
    begun = Painting(iteration, "calibration", 0, CALIBRATION)
    images = yield from _painted(setup, begun, prompts, seeds, nullcontext)
    setup.reward.calibrate(_scores(setup.reward, images, prompts, "calibration").parts)


def _painted(
    setup: Setup, begun: Painting, prompts: Sequence[StagePrompts], seeds: Sequence[int], wear: Wear
) -> Generator[Painting, None, Pictures]:
    """One picture for each (prompt, seed). The LoRA is worn while a group is painted, and not while that is told."""
    groups, pictures, now = setup.painter.groups(prompts, seeds), {}, begun
    yield now
    while now.done < now.total:
        with seeded(derive_seed("painting", now.purpose, now.done)), wear():
            numbers, painted = next(groups)
        pictures |= dict(zip(numbers, painted, strict=True))
        now = replace(now, done=len(pictures))
        yield now
    return in_order(pictures)


def _scores(reward: Reward, images: Pictures, prompts: Sequence[StagePrompts], role: str) -> Scores:
    with seeded(derive_seed("scores", role)):
        return score(reward, images, [prompt.scored for prompt in prompts])


def _statistics(images: Pictures, first: int) -> dict[str, Tensor]:
    """Of the first pictures and of the others apart, so that the first ones' diversity is their own."""
    groups = [statistics(group) for group in (images[:first], images[first:]) if len(group)]
    return {name: torch.cat([group[name] for group in groups]) for name in groups[0]}


def _watched(setup: Setup, images: Pictures, prompts: Sequence[StagePrompts]) -> dict[str, Tensor]:
    return {
        name: _scores(reward, images, prompts, f"watched: {name}").total
        for name, reward in setup.watched.items()
    }


def _as_trained(prompts: Sequence[StagePrompts]) -> list[StagePrompts]:
    """With the run's settings alone."""
    return [replace(prompt, shown=AS_THE_RUN) for prompt in prompts]


def _held_out(setup: Setup, count: int, purpose: str) -> tuple[list[StagePrompts], list[int]]:
    prompts = deal(setup.held_out_prompts, count, 0, 0)
    return prompts, [derive_seed(purpose, j) >> 32 for j in range(count)]
