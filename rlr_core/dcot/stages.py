"""Diffusive Chain-of-Thought (arXiv 2502.00639, section 4.3): a prompt for each stage of denoising.

Early steps draw the layout, middle ones the geometry, late ones the detail; each stage is told what concerns it. A plain prompt
is the case of one stage.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlr_core.chain import PromptSchedule, Schedule, Text
from rlr_core.dcot.switches import AS_THE_RUN, Shown
from rlr_core.errors import PromptError

NAMES = ("coarse", "mid", "fine")
"""Of three stages; more or fewer are called by their numbers."""
LONGEST = 10_000
"""Letters of a prompt; text encoders read the first 77 tokens."""
CLOSE = 1e-9
"""By which a step may miss a boundary that it lies on, in float64."""


@dataclass(frozen=True)
class Boundaries:
    """Where stages meet: how far a chain has come there, from 0 (noise) to 1 (finished).

    A step belongs to the stage after a boundary if it begins at it or beyond. Of T steps the i-th begins at i/T of the chain,
    or, counted by noise, where of what the latent consists the share σ/√(α² + σ²) is left: that keeps its meaning whatever the
    number of steps and the sampler.

    Attributes:
        values: rising, above 0 and below 1; for noise, falling shares of noise.
        by_noise: whether they are shares of noise, and not fractions of the chain.
    """

    values: tuple[float, ...]
    by_noise: bool = False

    def __post_init__(self) -> None:
        inside = all(0 < value < 1 for value in self.values)
        pairs = list(itertools.pairwise(self.values))
        ordered = all(a > b if self.by_noise else a < b for a, b in pairs)
        if not (inside and ordered):
            way = "falling shares of noise" if self.by_noise else "rising fractions of the chain"
            raise PromptError(
                f"stages that meet at {', '.join(f'{value:g}' for value in self.values)}",
                f"{way}, above 0 and below 1",
                "correct the boundaries; 0.333, 0.667 are thirds",
            )

    @classmethod
    def even(cls, stages: int) -> Boundaries:
        """Stages of equal length."""
        return cls(tuple(number / stages for number in range(1, stages)))

    def progress(self, schedule: Schedule) -> Tensor:
        """(T,) how far the chain has come where each step begins, float64."""
        if self.by_noise:
            alpha, sigma = schedule.alpha[:-1], schedule.sigma[:-1]
            return 1 - sigma / (alpha**2 + sigma**2).sqrt()
        return torch.arange(schedule.steps, dtype=torch.float64) / schedule.steps

    @property
    def places(self) -> Tensor:
        """The boundaries on the scale of `progress`."""
        values = torch.tensor(self.values, dtype=torch.float64)
        return 1 - values if self.by_noise else values

    def stage_of_step(self, schedule: Schedule) -> Tensor:
        """(T,) the stage that each step belongs to, from 0."""
        return (self.progress(schedule)[:, None] >= self.places - CLOSE).sum(1)

    def starts(self, schedule: Schedule) -> list[float]:
        """Where each stage after the first begins, as fractions of the chain; by noise, those of this one's steps."""
        if not self.by_noise:
            return list(self.values)
        stages = self.stage_of_step(schedule)
        return [int((stages <= stage).sum()) / schedule.steps for stage in range(len(self.values))]


@dataclass(frozen=True)
class StagePrompts:
    """What a picture is to show, stage by stage.

    Attributes:
        prompts: of the stages, from coarse to fine.
        negatives: their negative prompts; none means the run's own, for all.
        boundaries: one fewer than stages; None is evenly apart, or what the run says.
        intent: what the reward is told; "" is the stages' prompts together.
        count: how often it is dealt, compared with others.
        shown: how previews and samples show it.
    """

    prompts: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    boundaries: Boundaries | None = None
    intent: str = ""
    count: int = 1
    shown: Shown = AS_THE_RUN

    def __post_init__(self) -> None:
        if not self.prompts or any(not prompt.strip() for prompt in self.prompts):
            got = "a stage without words" if len(self.prompts) > 1 else "an empty prompt"
            raise PromptError(got, "a prompt with words, for every stage", "say what it should draw")
        longest = max((*self.prompts, *self.negatives, self.intent), key=len)
        if len(longest) > LONGEST:
            raise PromptError(
                f"a prompt of {len(longest)} letters: {longest[:60]} …",
                f"at most {LONGEST}",
                "write one per line",
            )
        if self.negatives and len(self.negatives) != len(self.prompts):
            raise PromptError(
                f"{len(self.negatives)} negative prompts for {len(self.prompts)} stages",
                "one for each stage, or one for all",
                "correct them",
            )
        if self.boundaries is not None and len(self.boundaries.values) != len(self.prompts) - 1:
            raise PromptError(
                f"{len(self.boundaries.values)} boundaries between {len(self.prompts)} stages",
                f"{len(self.prompts) - 1}",
                "give one fewer than stages",
            )
        if self.count < 1:
            raise PromptError(f"a prompt {self.count} times", "once or more", "correct it, or leave it out")

    @property
    def scored(self) -> str:
        """What the reward is told: the whole of the intent, never one stage alone."""
        return self.intent or together(self.prompts)


def stage_names(prompt: StagePrompts) -> tuple[str, ...]:
    """What the stages of a prompt are called."""
    count = len(prompt.prompts)
    return NAMES if count == len(NAMES) else tuple(str(number) for number in range(1, count + 1))


def plain(texts: Iterable[str]) -> list[StagePrompts]:
    """Prompts of one stage."""
    return [StagePrompts((text,)) for text in texts]


@dataclass(frozen=True)
class StageSettings:
    """What a run says of all its prompts.

    Attributes:
        boundaries: of prompts that have none of their own and as many stages; others are cut evenly.
        blend: over how much of the chain, around a boundary, a stage's conditioning turns into the next one's; 0 is at once.
        negative: the negative prompt of stages that have none of their own.
    """

    boundaries: Boundaries | None = None
    blend: float = 0.0
    negative: str = ""

    def boundaries_of(self, prompts: StagePrompts) -> Boundaries:
        """Where the stages of a prompt meet."""
        stages = len(prompts.prompts)
        own = self.boundaries if self.boundaries and len(self.boundaries.values) == stages - 1 else None
        return prompts.boundaries or own or Boundaries.even(stages)

    def steps_of(self, names: Sequence[str], schedule: Schedule) -> range:
        """The steps of stages next to each other, by name or by number from 1. Raises `PromptError`."""
        known = [*NAMES] if set(names) & set(NAMES) else [str(n + 1) for n in range(self._stages)]
        boundaries = self.boundaries or Boundaries.even(len(known))
        numbers = sorted(known.index(name) for name in names if name in known)
        together = numbers == list(range(numbers[0], numbers[-1] + 1)) if numbers else False
        if len(numbers) != len(names) or not together or len(boundaries.values) != len(known) - 1:
            raise PromptError(
                f"estimator.stages = {list(names)}",
                f"stages next to each other, of {', '.join(known)}",
                "correct them, or prompts.boundaries",
            )
        stages = boundaries.stage_of_step(schedule).tolist()
        steps = [step for step, stage in enumerate(stages) if stage in numbers]
        if not steps:
            raise PromptError(
                f"estimator.stages = {list(names)}, which no step of {schedule.steps} belongs to",
                "stages with steps",
                "correct prompts.boundaries, or raise sampling.steps",
            )
        return range(steps[0], steps[-1] + 1)

    @property
    def _stages(self) -> int:
        return len(self.boundaries.values) + 1 if self.boundaries else len(NAMES)

    def schedule(self, prompts: StagePrompts, schedule: Schedule) -> PromptSchedule:
        """The texts of a prompt over the steps of a chain. Raises `PromptError` where stages are too short to blend."""
        boundaries = self.boundaries_of(prompts)
        negatives = prompts.negatives or (self.negative,) * len(prompts.prompts)
        texts = tuple(map(Text, prompts.prompts, negatives))
        if not self.blend or len(texts) == 1:
            stages = boundaries.stage_of_step(schedule)
            return PromptSchedule(texts, stages, torch.zeros(schedule.steps, dtype=torch.float64))
        return PromptSchedule(texts, *_blended(boundaries, self.blend, schedule))


def _blended(boundaries: Boundaries, blend: float, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Stage and share of the next one, (T,) each: around each boundary the share rises in a straight line from 0 to 1."""
    edges = torch.cat([torch.zeros(1), boundaries.places, torch.ones(1)]).double()
    if float(edges.diff().min()) < blend:
        raise PromptError(
            f"stages that blend over {blend:g} of the chain, with boundaries {', '.join(f'{v:g}' for v in boundaries.values)}",
            "stages that are longer than what they blend over",
            "lower prompts.blend",
        )
    progress = boundaries.progress(schedule)[:, None]
    risen = ((progress - boundaries.places) / blend + 0.5).clamp(0, 1).sum(1)
    stages = risen.floor().long().clamp(max=len(boundaries.values))
    return stages, risen - stages


def together(prompts: Sequence[str]) -> str:
    """The prompts' phrases, each said once, in their order: phrases are what commas part."""
    phrases = [phrase.strip() for prompt in prompts for phrase in prompt.split(",") if phrase.strip()]
    said: dict[str, str] = {}
    for phrase in phrases:
        said.setdefault(_plain(phrase), phrase)
    kept = [key for key in said if not any(key != other and _contains(other, key) for other in said)]
    return ", ".join(said[key] for key in kept)


def _plain(phrase: str) -> str:
    return re.sub(r"\s+", " ", phrase).casefold()


def _contains(phrase: str, part: str) -> bool:
    """Whether a phrase says all of another one's words in a row."""
    return f" {part} " in f" {phrase} "
