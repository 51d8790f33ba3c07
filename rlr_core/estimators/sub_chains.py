"""Which sub-chains [a..b] the half-order part differentiates, and with which weight.

They are drawn from a range of steps: those before the first-order tail, or of them the ones that a problem is limited to. A
policy draws sub-chains for every sample of a batch; the expected weight of a step is its coverage. Draws are stratified over
the batch: each sample's own distribution is unchanged, while together the samples cover the chain evenly.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor


class SubChains(NamedTuple):
    """One sub-chain per sample: its first step, the step after its last one, and its weight; all (B,)."""

    start: Tensor
    stop: Tensor
    weight: Tensor

    def of(self, samples: Tensor) -> SubChains:
        """Those of some samples."""
        return SubChains(*(values[samples] for values in self))


class SubChainPolicy(ABC):
    """How sub-chains of `length` steps are chosen."""

    def __init__(self, length: int):
        assert length >= 1
        self.length = length

    @abstractmethod
    def draw(self, batch_size: int, steps: range, generator: torch.Generator) -> list[SubChains]:
        """Sub-chains for each sample; the terms of the list add up."""

    @abstractmethod
    def coverage(self, steps: range) -> Tensor:
        """(n,) expected weight of each of the n steps."""

    def ends(self, steps: range) -> Tensor:
        """The last steps that sub-chains may have, where the likelihood ratio needs noise."""
        return torch.tensor([stop - 1 for _, stop in partition(steps, self.length)])

    def observe(self, drawn: SubChains, squared_norm: float) -> None:  # noqa: B027  (most policies learn nothing)
        """Learn from the squared norm of a gradient that came from `drawn`."""

    def settle(self) -> None:  # noqa: B027
        """The batch is over: what was observed may be used from now on."""

    def state_dict(self) -> dict[str, Any]:
        """What was learned."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        assert not state


def partition(steps: range, length: int) -> list[tuple[int, int]]:
    """Cut `steps` into (start, stop) of `length` steps; the first, noisiest one takes what is left over."""
    edges = [steps.start, *range(steps.stop - (len(steps) - 1) // length * length, steps.stop + 1, length)]
    return list(itertools.pairwise(edges))


def stratified(batch_size: int, generator: torch.Generator) -> Tensor:
    """(B,) uniform numbers in [0, 1), one in each of B equal strata, in random order."""
    order = torch.randperm(batch_size, generator=generator)
    return (order + torch.rand(batch_size, generator=generator, dtype=torch.float64)) / batch_size


def evenly_apart(count: int, steps: range, chunks: int, generator: torch.Generator) -> list[list[int]]:
    """For each of so many chunks `count` of the `steps`, in their order: evenly apart, stratified over the chunks."""
    offsets = stratified(chunks, generator)
    places = (torch.arange(count) + offsets[:, None]) * len(steps) / count
    return (steps.start + places.long().clamp(max=len(steps) - 1)).tolist()


class AllSubChains(SubChainPolicy):
    """Every sub-chain of the partition, for every sample. With length 1: every step (REINFORCE)."""

    def draw(self, batch_size: int, steps: range, generator: torch.Generator) -> list[SubChains]:
        drawn = []
        for edges in partition(steps, self.length):
            values = (torch.full((batch_size,), value) for value in (*edges, 1.0))
            drawn.append(SubChains(*values))
        return drawn

    def coverage(self, steps: range) -> Tensor:
        return torch.ones(len(steps))


class RandomStart(SubChainPolicy):
    """One sub-chain with a uniformly drawn start, weight 1 (eq. 11, which leaves the other steps to the zeroth order)."""

    def draw(self, batch_size: int, steps: range, generator: torch.Generator) -> list[SubChains]:
        choices = len(steps) - self.length + 1
        start = steps.start + (stratified(batch_size, generator) * choices).long().clamp(max=choices - 1)
        return [SubChains(start, start + self.length, torch.ones(batch_size))]

    def coverage(self, steps: range) -> Tensor:
        starts = range(len(steps) - self.length + 1)
        counts = torch.zeros(len(steps))
        for start in starts:
            counts[start : start + self.length] += 1 / len(starts)
        return counts

    def ends(self, steps: range) -> Tensor:
        return torch.arange(steps.start + self.length - 1, steps.stop)


class OneSubChain(SubChainPolicy):
    """One sub-chain of the partition, drawn with probability p_j and weighted by 1/p_j: every step counts once in expectation.

    Args:
        length: h.
        learned: p_j ∝ sqrt(E|term_j|²), the choice of least variance, tracked over earlier batches; else uniform. What a chunk
            shows is the norm of its sum: where every chunk has all sub-chains in equal numbers, p stays uniform.
        floor: the share of uniform probability that is mixed in, which bounds the weights.
        decay: how much of a tracked mean stays after a batch that observed it.
    """

    def __init__(self, length: int, *, learned: bool = False, floor: float = 0.2, decay: float = 0.9):
        super().__init__(length)
        self.learned, self.floor, self.decay = learned, floor, decay
        self._second_moment: dict[int, float] = {}  # by first step
        self._observed: dict[int, list[float]] = {}

    def probabilities(self, starts: Tensor) -> Tensor:
        """p_j of the sub-chains that begin at the steps `starts`."""
        uniform = torch.full((len(starts),), 1 / len(starts), dtype=torch.float64)
        if not self.learned or not self._second_moment:
            return uniform
        typical = sum(self._second_moment.values()) / len(self._second_moment)
        moments = [self._second_moment.get(start, typical) for start in starts.tolist()]
        weights = torch.tensor(moments, dtype=torch.float64).sqrt()
        if not weights.sum() > 0:
            return uniform
        return self.floor * uniform + (1 - self.floor) * weights / weights.sum()

    def draw(self, batch_size: int, steps: range, generator: torch.Generator) -> list[SubChains]:
        starts, stops = torch.tensor(partition(steps, self.length)).T
        p = self.probabilities(starts)
        drawn = torch.searchsorted(p.cumsum(0), stratified(batch_size, generator), right=True)
        drawn = drawn.clamp(max=len(p) - 1)
        return [SubChains(starts[drawn], stops[drawn], 1 / p[drawn])]

    def coverage(self, steps: range) -> Tensor:
        return torch.ones(len(steps))

    def observe(self, drawn: SubChains, squared_norm: float) -> None:
        """Share the squared norm of a chunk's mean gradient among its samples, in the proportion expected so far.

        Terms of different samples are nearly uncorrelated, so |Σ_j w_j·term_j / n|² ≈ Σ_j w_j²·|term_j|² / n².
        """
        n, starts = len(drawn.start), drawn.start.tolist()
        typical = sum(self._second_moment.values()) / max(len(self._second_moment), 1)
        expected = [self._second_moment.get(start, typical) or 1.0 for start in starts]
        weighted = sum(w * w * e for w, e in zip(drawn.weight.tolist(), expected, strict=True))
        for start, e in zip(starts, expected, strict=True):
            self._observed.setdefault(start, []).append(squared_norm * n * n / weighted * e)

    def settle(self) -> None:
        for start, values in self._observed.items():
            mean = sum(values) / len(values)
            old = self._second_moment.get(start, mean)
            self._second_moment[start] = self.decay * old + (1 - self.decay) * mean
        self._observed = {}

    def state_dict(self) -> dict[str, Any]:
        return {str(start): value for start, value in self._second_moment.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._second_moment = {int(start): value for start, value in state.items()}
        self._observed = {}
