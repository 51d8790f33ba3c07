"""First order: back-propagate the reward through the decoder and the last K steps, with x_{T-K} detached.

Exact for Σ_{i ≥ T-K} g_i. Alone it is truncated back-propagation: DRaFT-K for a fixed K (arXiv 2309.17400), AlignProp for a
uniformly drawn one (arXiv 2310.03739), full back-propagation for K = T. First term of eq. 11 (there K = 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FirstOrder:
    """The tail of the chain that is differentiated with the reward.

    Attributes:
        low: fewest steps K.
        high: most steps K; where it differs from `low`, K is drawn uniformly for every batch.
        rerun: keep the latents only and run one step at a time again on the way back: the memory of one step for K more
            forward passes.
    """

    low: int
    high: int
    rerun: bool = False

    name = "first order"

    @classmethod
    def last(cls, steps: int, *, rerun: bool = False) -> FirstOrder:
        """The last `steps` steps."""
        return cls(steps, steps, rerun)

    def draw(self, generator: torch.Generator) -> int:
        """K for this batch."""
        return int(torch.randint(self.low, self.high + 1, (), generator=generator))

    def coverage(self, steps: int) -> Tensor:
        """(steps,) the probability that a step is differentiated."""
        lengths = range(self.low, self.high + 1)
        counts = torch.zeros(steps)
        for length in lengths:
            counts[steps - length :] += 1 / len(lengths)
        return counts
