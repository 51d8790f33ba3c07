"""What the processes that share a batch know of each other.

Every process is given the whole batch, has some of its chunks, and computes their gradients by itself. Whatever meets across
pictures goes through a `Collective`: rewards, and with them baselines and advantages; what baselines, learned probabilities and
control variates observe; means of gradients, their standard errors, and the cost. What is drawn before (sub-chains, lengths,
perturbations) follows from the batch's seed, and needs no word. So all processes come to one estimate and learn the same.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Collective(Protocol):
    """The processes that share every batch. All of them make the same calls in the same order."""

    @property
    def size(self) -> int:
        """How many processes there are."""
        ...

    def mine(self, count: int) -> range:
        """This process's of the numbers 0 … count-1: neighbours, the first process's first, nobody's twice."""
        ...

    def gather(self, values: Tensor) -> Tensor:
        """Rows (n, …), any number for each of mine → the rows of all (N, …), in the order of the batch."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """A tensor → its sum over the processes, element by element, the same bits in all of them; `values` stays as it is."""
        ...


class Alone:
    """One process has everything."""

    size = 1

    def mine(self, count: int) -> range:
        """See `Collective.mine`."""
        return range(count)

    def gather(self, values: Tensor) -> Tensor:
        """See `Collective.gather`."""
        return values

    def sum(self, values: Tensor) -> Tensor:
        """See `Collective.sum`."""
        return values
