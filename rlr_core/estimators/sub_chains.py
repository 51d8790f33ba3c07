"""Which sub-chains [a..b] the half-order part differentiates, and with which weight.

Steps 0 … n-1 are those before the first-order tail. A policy draws sub-chains for every sample of a batch; the expected weight
of a step is its coverage. Draws are stratified over the batch: each sample's own distribution is unchanged, while together
the samples cover the chain evenly.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import NamedTuple

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
    def draw(self, batch_size: int, steps: int, generator: torch.Generator) -> list[SubChains]:
        """Sub-chains for each sample; the terms of the list add up."""

    @abstractmethod
    def coverage(self, steps: int) -> Tensor:
        """(steps,) expected weight of each step."""

    def ends(self, steps: int) -> Tensor:
        """The last steps that sub-chains may have, where the likelihood ratio needs noise."""
        return torch.tensor([stop - 1 for _, stop in partition(steps, self.length)])


def partition(steps: int, length: int) -> list[tuple[int, int]]:
    """Cut 0 … steps-1 into (start, stop) of `length` steps; the first, noisiest one takes what is left over."""
    edges = [0, *range(steps - (steps - 1) // length * length, steps + 1, length)]
    return list(itertools.pairwise(edges))


def stratified(batch_size: int, generator: torch.Generator) -> Tensor:
    """(B,) uniform numbers in [0, 1), one in each of B equal strata, in random order."""
    order = torch.randperm(batch_size, generator=generator)
    return (order + torch.rand(batch_size, generator=generator, dtype=torch.float64)) / batch_size


class AllSubChains(SubChainPolicy):
    """Every sub-chain of the partition, for every sample. With length 1: every step (REINFORCE)."""

    def draw(self, batch_size: int, steps: int, generator: torch.Generator) -> list[SubChains]:
        drawn = []
        for edges in partition(steps, self.length):
            values = (torch.full((batch_size,), value) for value in (*edges, 1.0))
            drawn.append(SubChains(*values))
        return drawn

    def coverage(self, steps: int) -> Tensor:
        return torch.ones(steps)


class RandomStart(SubChainPolicy):
    """One sub-chain with a uniformly drawn start, weight 1 (eq. 11, which leaves the other steps to the zeroth order)."""

    def draw(self, batch_size: int, steps: int, generator: torch.Generator) -> list[SubChains]:
        choices = steps - self.length + 1
        start = (stratified(batch_size, generator) * choices).long().clamp(max=choices - 1)
        return [SubChains(start, start + self.length, torch.ones(batch_size))]

    def coverage(self, steps: int) -> Tensor:
        starts = range(steps - self.length + 1)
        counts = torch.zeros(steps)
        for start in starts:
            counts[start : start + self.length] += 1 / len(starts)
        return counts

    def ends(self, steps: int) -> Tensor:
        return torch.arange(self.length - 1, steps)


class OneSubChain(SubChainPolicy):
    """One sub-chain of the partition, drawn uniformly and weighted by their number: every step counts once in expectation."""

    def draw(self, batch_size: int, steps: int, generator: torch.Generator) -> list[SubChains]:
        parts = torch.tensor(partition(steps, self.length))
        count = len(parts)
        number = (stratified(batch_size, generator) * count).long().clamp(max=count - 1)
        weight = torch.full((batch_size,), float(count), dtype=torch.float64)
        return [SubChains(parts[number, 0], parts[number, 1], weight)]

    def coverage(self, steps: int) -> Tensor:
        return torch.ones(steps)
