"""Baselines β: what is subtracted from a reward without biasing the gradient, being independent of the sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class Baseline(ABC):
    """β for every sample of a batch."""

    @abstractmethod
    def __call__(self, rewards: Tensor, prompts: Sequence[str], blocks: Tensor) -> Tensor:
        """β (B,), for each sample independent of all samples in its own block (B,), as those that share a perturbation."""

    def observe(self, rewards: Tensor, prompts: Sequence[str]) -> None:  # noqa: B027  (most baselines learn nothing)
        """Learn from a batch, for later ones."""

    def state_dict(self) -> dict[str, Any]:
        """What was learned."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        assert not state


class NoBaseline(Baseline):
    """β = 0."""

    def __call__(self, rewards: Tensor, prompts: Sequence[str], blocks: Tensor) -> Tensor:
        return torch.zeros_like(rewards)


class LeaveOneOut(Baseline):
    """The mean of the other samples with the same prompt (RLOO, arXiv 2402.14740).

    Where there are none, the mean of all other samples; where there are none either, 0.
    """

    def __call__(self, rewards: Tensor, prompts: Sequence[str], blocks: Tensor) -> Tensor:
        index = {prompt: k for k, prompt in enumerate(dict.fromkeys(prompts))}
        group = torch.tensor([index[prompt] for prompt in prompts])
        same, found = _mean_of_others(rewards, group, blocks)
        anyone, _ = _mean_of_others(rewards, torch.zeros_like(group), blocks)
        return torch.where(found, same, anyone)


def _mean_of_others(rewards: Tensor, group: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the samples of the same group in other blocks (0 where there are none), and where there are any."""
    pair = torch.unique(group * (int(block.max()) + 1) + block, return_inverse=True)[1]
    device = rewards.device
    total, own = _sums(rewards, group.to(device)), _sums(rewards, pair.to(device))
    count = _sums(torch.ones_like(rewards), group.to(device)) - _sums(
        torch.ones_like(rewards), pair.to(device)
    )
    return (total - own) * (count > 0) / count.clamp(min=1), count > 0


def _sums(values: Tensor, index: Tensor) -> Tensor:
    """For each element the sum over all elements with its index."""
    return torch.zeros_like(values).index_add(0, index, values)[index]


@dataclass
class RunningMean(Baseline):
    """The mean of earlier batches, per prompt where it was seen before, else over all prompts.

    Attributes:
        decay: how much of the old mean stays after a batch.
    """

    decay: float = 0.9
    means: dict[str, float] = field(default_factory=dict)
    overall: float | None = None

    def __call__(self, rewards: Tensor, prompts: Sequence[str], blocks: Tensor) -> Tensor:
        return rewards.new_tensor([self.means.get(prompt, self.overall or 0.0) for prompt in prompts])

    def observe(self, rewards: Tensor, prompts: Sequence[str]) -> None:
        values, by_prompt = rewards.tolist(), defaultdict[str, list[float]](list)
        for prompt, value in zip(prompts, values, strict=True):
            by_prompt[prompt].append(value)
        for prompt, mine in by_prompt.items():
            self.means[prompt] = self._blend(self.means.get(prompt), sum(mine) / len(mine))
        self.overall = self._blend(self.overall, sum(values) / len(values))

    def _blend(self, old: float | None, new: float) -> float:
        return new if old is None else self.decay * old + (1 - self.decay) * new

    def state_dict(self) -> dict[str, Any]:
        return {"means": dict(self.means), "overall": self.overall}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.means, self.overall = dict(state["means"]), state["overall"]
