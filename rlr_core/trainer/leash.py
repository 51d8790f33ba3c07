"""A leash: how far training may take the pictures' chains from the checkpoint's own.

    D = KL(θ ‖ base), of a chain of many steps (`rlr_core.chain.divergence.finely`), in nats for each number of a latent

What a reward can be misled by lies far from what the checkpoint paints (arXiv 2305.16381, section 4.2, and 2512.24138), and
nobody has to be told by how much a penalty is to count: the limit itself is what is set, `training.max_kl`. D grows with the
square of what is added to the weights, as long as it is small, so that c = D/|up|² is nearly constant, where up are the
matrices of the LoRA that begin at 0. D is measured now and then, on a picture of the batch at hand, and c's running mean tells
it at every iteration. Where it is beyond the limit, up is multiplied by √(limit/D): what is left of a step is what turns the
LoRA, and does not lengthen it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from rlr_core.chain import Cost, Counted, Visit, finely, shift, visit
from rlr_core.chain.noise import derive_seed
from rlr_core.estimators import Batch, Problem
from rlr_core.lora import Lora
from rlr_core.trainer.trust import DRAWS, ETA

EVERY = 4
"""It is measured once in so many iterations, by chance, as prompts come in turns."""
CALMER = 0.3
"""The latest measurement's share of the running mean, from the fourth on."""


@dataclass
class Leash:
    """How far the chains are from the checkpoint's, and the LoRA's return where that is too far.

    Attributes:
        lora: it is made weaker.
        limit: of D.
        curvature: running mean of c; `measured` counts what is in it.
        cost: network evaluations of this iteration's measurement.
    """

    lora: Lora
    limit: float
    curvature: float = 0.0
    measured: int = 0
    cost: Cost = field(default_factory=Cost)
    _found: float = math.nan

    def look(self, problem: Problem, batch: Batch) -> None:
        """Before an iteration's step, where its turn has come: measure. What is found counts once the step is taken."""
        self.cost, self._found = Cost(), math.nan
        generator = torch.Generator().manual_seed(derive_seed(batch.seed, "leash"))
        square = self.lora.square
        if int(torch.randint(EVERY, (), generator=generator)) or not square:
            return
        mine = problem.collective.mine(len(batch))
        sample = mine[int(torch.randint(len(mine), (), generator=generator))]
        chain = replace(problem, denoiser=Counted(problem.denoiser, self.cost)).chain(batch)
        found = self._distance(visit(chain, sample, DRAWS, ETA, finely(chain.schedule), generator))
        all_of_it = problem.collective.sum(torch.tensor([found], dtype=torch.float64))
        self._found = float(all_of_it) / problem.collective.size / square

    def _distance(self, visited: Visit) -> float:
        """D by four evaluations of each drawn step, whose rounding is their own: see `rlr_core.trainer.trust`."""
        there = {}
        for strength in (0.0, 0.5, 1.5):
            with self.lora.scaled(strength):
                there[strength] = visited.now()
        whole, half = shift(visited.transitions, there[0.0]), shift(there[1.5], there[0.5])
        return visited.product(whole, half) / visited.size

    def settle(self) -> None:
        """After the step: take in what was measured, and make the LoRA weaker where it is too far."""
        if math.isfinite(self._found):
            self.measured += 1
            share = max(CALMER, 1 / self.measured)
            self.curvature += share * (max(self._found, 0.0) - self.curvature)
        if self.distance > self.limit:
            self.lora.weaken(math.sqrt(self.limit / self.distance))

    @property
    def distance(self) -> float:
        """D, as far as it is known; 0 before it was measured."""
        return self.curvature * self.lora.square if self.measured else 0.0

    def told(self) -> dict[str, float]:
        """Where something is known: how far it is."""
        return {"distance": self.distance} if self.measured else {}

    def state_dict(self) -> dict[str, Any]:
        """The running mean."""
        return {"curvature": self.curvature, "measured": self.measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.curvature, self.measured = state["curvature"], state["measured"]
