"""What each stage of a picture decides: the finished picture as the denoiser predicts it at places along the chain.

    x̂_i = x̂(x_i),   decoded, i from the first step to the last

This is the picture that would come if the chain ended there; what does not change any more is decided. Nothing is drawn here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlr_core.chain import Chain, initial_latents, rollout
from rlr_core.dcot import StagePrompts, stage_names
from rlr_core.rewards import Pictures, Reward, assembled, stills
from rlr_core.trainer.sampling import Painter, score

PLACES = 8
"""Along the chain, where it has as many steps."""


@dataclass(frozen=True)
class Unfolding:
    """A picture along its chain.

    Attributes:
        prompt: that it is of.
        pictures: predicted finished ones, (N, 3, H, W), range [0, 1], on the CPU; of videos one frame.
        steps: that they are predicted at, from 0; the last one is the chain's last.
        stage_of_step: (T,) the stage that each step belongs to, from 0.
        scores: the reward of each picture; none without a reward.
    """

    prompt: StagePrompts
    pictures: Pictures
    steps: tuple[int, ...]
    stage_of_step: tuple[int, ...]
    scores: tuple[float, ...]

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The steps that another stage begins with than the step before belonged to."""
        stages = self.stage_of_step
        return tuple(step for step in range(1, len(stages)) if stages[step] != stages[step - 1])

    @property
    def spans(self) -> list[tuple[str, str, range]]:
        """Name, text and steps of each stage; one that is too short for a step has an empty range."""
        stages = list(self.stage_of_step)
        names, texts = stage_names(self.prompt), self.prompt.prompts
        found = [(stages.index(k), stages.count(k)) if k in stages else (0, 0) for k in range(len(texts))]
        return [
            (name, text, range(start, start + count))
            for name, text, (start, count) in zip(names, texts, found, strict=True)
        ]


@torch.no_grad()
def unfold(
    painter: Painter, prompt: StagePrompts, seed: int, reward: Reward | None = None, places: int = PLACES
) -> Unfolding:
    """Walk one chain, of the painter's first size, and predict the finished picture at `places` steps.

    That costs T + places evaluations. Each stage that has a step has a place, so that there may be more of them.
    """
    canvas, stages = painter.canvases[0], painter.stages
    schedule, everyone = canvas.schedule, torch.arange(1)
    stage_of_step = stages.boundaries_of(prompt).stage_of_step(schedule).tolist()
    conditioning = painter.prompted.conditioning([stages.schedule(prompt, schedule)])
    noise = canvas.noise([seed], painter.model.device)
    chain = Chain(painter.prompted.denoiser, schedule, conditioning, noise, painter.sampling.eta)
    steps = places_of(stage_of_step, places)
    _, latents = rollout(chain, initial_latents(chain), everyone, range(schedule.steps), keep=steps)
    pictures = [
        painter.model.decode(chain.predict(latents[step], torch.tensor([step]), everyone).sample)[0].cpu()
        for step in steps
    ]
    scores = score(reward, assembled(pictures), [prompt.scored] * len(steps)).total.tolist() if reward else []
    return Unfolding(prompt, stills(assembled(pictures)), tuple(steps), tuple(stage_of_step), tuple(scores))


def places_of(stage_of_step: Sequence[int], places: int) -> list[int]:
    """Steps evenly apart, the first and the last among them, and the first step of each stage that has none of these."""
    last = len(stage_of_step) - 1
    chosen = {round(k * last / max(places - 1, 1)) for k in range(places)}
    seen = {stage_of_step[step] for step in chosen}
    return sorted(chosen | {stage_of_step.index(stage) for stage in set(stage_of_step) - seen})
