"""Conditioning that may differ from sample to sample and from step to step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Tensors for a model, in S stages of the chain; one stage is the ordinary case.

    Attributes:
        stages: name → (S, B, …): what the model is given in stage s for sample b.
        stage_of_step: (T,) integers: the stage that each step belongs to.
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
        stage = self.stage_of_step[step]
        return {name: value[stage, samples] for name, value in self.stages.items()}
