"""What a training run tells: one small dataclass for each kind of event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PartReport:
    """A part of the gradient: its norm, its standard error, and the weight it was given."""

    norm: float
    standard_error: float
    weight: float


@dataclass(frozen=True)
class Iteration:
    """An optimizer step was taken.

    Attributes:
        iteration: counted from 1.
        reward: mean over the batch; `reward_error` its standard error.
        gradient_norm: of the weighed gradient, before it is scaled down.
        evaluations: network evaluations spent, per picture.
        seconds: wall-clock time.
    """

    iteration: int
    reward: float
    reward_error: float
    parts: Mapping[str, PartReport]
    gradient_norm: float
    evaluations: float
    seconds: float


@dataclass(frozen=True)
class Skipped:
    """An iteration that changed nothing, and why."""

    iteration: int
    reason: str
    seconds: float


@dataclass(frozen=True)
class Preview:
    """Pictures at fixed prompts and seeds: images (N, 3, H, W), range [0, 1], and their held-out scores (N,)."""

    iteration: int
    prompts: list[str]
    seeds: list[int]
    images: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Evaluation:
    """Pictures of (prompt, seed) pairs that are never trained on.

    Attributes:
        when: "before" or "after" training.
        images: (N, 3, H, W), range [0, 1].
        scores: (N,) by the held-out reward.
        rewards: (N,) by the reward that is trained on.
    """

    when: str
    prompts: list[str]
    seeds: list[int]
    images: Tensor
    scores: Tensor
    rewards: Tensor


@dataclass(frozen=True)
class CheckpointDue:
    """The state is whole: a checkpoint may be written."""

    iteration: int


Event = Iteration | Skipped | Preview | Evaluation | CheckpointDue
