"""Conditioning that may differ from sample to sample and from step to step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Text(NamedTuple):
    """What a denoiser is told at a step: the prompt, and the negative prompt that guidance leads away from."""

    prompt: str
    negative: str = ""


@dataclass(frozen=True)
class PromptSchedule:
    """The texts of one picture, stage by stage, over the T steps of a chain.

    Attributes:
        texts: of the stages, from coarse to fine; one is the ordinary case.
        stage_of_step: (T,) integers: the stage that each step belongs to.
        next_share: (T,) in [0, 1): how much of the following stage's conditioning is mixed into a step's own; 0 mixes nothing.
    """

    texts: tuple[Text, ...]
    stage_of_step: Tensor
    next_share: Tensor

    def __post_init__(self) -> None:
        assert self.stage_of_step.shape == self.next_share.shape and self.stage_of_step.dim() == 1
        assert int(self.stage_of_step.min()) >= 0 and int(self.stage_of_step.max()) < len(self.texts)

    @classmethod
    def constant(cls, text: Text, steps: int) -> PromptSchedule:
        """The same text at each of `steps` steps."""
        return cls((text,), torch.zeros(steps, dtype=torch.long), torch.zeros(steps, dtype=torch.float64))

    @property
    def entries(self) -> tuple[list[tuple[int, float]], Tensor]:
        """The distinct pairs of stage and share that occur, and (T,) which of them each step has."""
        pairs = list(zip(self.stage_of_step.tolist(), self.next_share.tolist(), strict=True))
        distinct = list(dict.fromkeys(pairs))
        return distinct, torch.tensor([distinct.index(pair) for pair in pairs])


@dataclass(frozen=True)
class Conditioning:
    """Tensors for a model, in S stages of the chain; one stage is the ordinary case.

    Attributes:
        stages: name → (S, B, …): what the model is given in stage s for sample b.
        stage_of_step: (T,) integers: the stage that each step belongs to; or (T, B), where samples differ in that.
    """

    stages: Mapping[str, Tensor]
    stage_of_step: Tensor

    @classmethod
    def constant(cls, values: Mapping[str, Tensor], steps: int) -> Conditioning:
        """The same `values` (name → (B, …)) at each of `steps` steps."""
        return cls(
            {name: value[None] for name, value in values.items()}, torch.zeros(steps, dtype=torch.long)
        )

    @classmethod
    def staged(cls, values: Sequence[Mapping[str, Tensor]], stage_of_step: Tensor) -> Conditioning:
        """`values[s]` (name → (B, …)) in stage s."""
        stacked = {name: torch.stack([stage[name] for stage in values]) for name in values[0]}
        return cls(stacked, stage_of_step)

    def at(self, step: Tensor, samples: Tensor) -> dict[str, Tensor]:
        """Rows for the samples `samples` (n,), the j-th at its own step `step[j]`: name → (n, …)."""
        alike = self.stage_of_step.dim() == 1
        stage = self.stage_of_step[step] if alike else self.stage_of_step[step, samples]
        return {name: value[stage, samples] for name, value in self.stages.items()}
