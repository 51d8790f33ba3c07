"""A leash: how far training may take the pictures' chains from where it found them.

    D = KL(θ ‖ θ₀), of a chain of many steps (`rlr_core.chain.divergence.finely`), in nats for each number of a latent

θ₀ is the LoRA before training: the checkpoint itself, or the LoRA that training goes on from. What a reward can be misled by
lies far from what is painted there (arXiv 2305.16381, section 4.2, and 2512.24138), and nobody has to be told by how much a
penalty is to count: the limit itself is what is set, `training.max_kl`. D grows with |θ − θ₀|², as long as that is small, so
that c = D/|θ − θ₀|² changes slowly. D is measured now and then, on a picture of the batch at hand, and c's running mean tells
it at every iteration. Where it is beyond the limit, θ − θ₀ is multiplied by √(limit/D): what is left of a step is what turns
the LoRA, and does not lengthen it.

D takes four evaluations of each step that is drawn, so that rounding is not taken for distance (see `rlr_core.trainer.trust`):
the second pair lies a little further on, `BEYOND` of the way, where a way through down and up is nearly as straight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Cost, Counted, Transition, Visit, finely, noisy, shift, visit
from rlr_core.chain.noise import derive_seed
from rlr_core.estimators import Batch, Problem
from rlr_core.trainer.trust import ETA
from rlr_core.trainer.values import copies, kept

FIRST, OFTEN, EVERY = 4, 2, 8
"""So many measurements come once in `OFTEN` iterations, by chance, as prompts come in turns; later ones once in `EVERY`."""
DRAWS = 4
"""Steps of a picture's chain that are drawn to be compared: what pictures differ by is more than what steps do."""
CALMER = 0.2
"""The latest measurement's share of the running mean, from the fifth on."""
BEYOND = 0.1
"""Of the way from θ₀ to θ."""


def has_distance(problem: Problem) -> bool:
    """Whether pictures' chains have a density, and so a divergence: some step has to add noise."""
    return bool(noisy(problem.schedule, ETA).any())


@dataclass
class Leash:
    """How far the chains are from where training found them, and the way back where that is too far.

    Attributes:
        parameters: θ.
        limit: of D.
        start: θ₀, in main memory; what the parameters are when the leash is made, unless it is given.
        curvature: running mean of c; `measured` counts what is in it.
        cost: network evaluations of this iteration's measurement.
    """

    parameters: Sequence[Tensor]
    limit: float
    start: list[Tensor] = field(default_factory=list)
    curvature: float = 0.0
    measured: int = 0
    cost: Cost = field(default_factory=Cost)
    _found: float = math.nan

    def __post_init__(self) -> None:
        self.start = self.start or copies(self.parameters)

    def look(self, problem: Problem, batch: Batch) -> None:
        """Before an iteration's step, where its turn has come: measure. What is found counts once the step is taken."""
        self.cost, self._found = Cost(), math.nan
        generator = torch.Generator().manual_seed(derive_seed(batch.seed, "leash"))
        every = OFTEN if self.measured < FIRST else EVERY
        if int(torch.randint(every, (), generator=generator)) or not (square := self.square):
            return
        mine = problem.collective.mine(len(batch))
        sample = mine[int(torch.randint(len(mine), (), generator=generator))]
        chain = replace(problem, denoiser=Counted(problem.denoiser, self.cost)).chain(batch)
        found = self._distance(visit(chain, sample, DRAWS, ETA, finely(chain.schedule), generator))
        all_of_it = problem.collective.sum(torch.tensor([found], dtype=torch.float64))
        self._found = float(all_of_it) / problem.collective.size / square

    def _distance(self, visited: Visit) -> float:
        """D, in nats for each number of a latent."""
        none, near, past = (self._at(share, visited) for share in (0.0, BEYOND, 1 + BEYOND))
        return visited.product(shift(visited.transitions, none), shift(past, near)) / visited.size

    def _at(self, share: float, visited: Visit) -> dict[int, Transition]:
        """The drawn transitions at θ₀ + `share`·(θ − θ₀); θ is back afterwards."""
        with kept(self.parameters):
            self._go(share)
            return visited.now()

    @torch.no_grad()
    def _go(self, share: float) -> None:
        """To θ₀ + `share`·(θ − θ₀)."""
        for p, start in self._both():
            p.copy_(start + share * (p - start))

    def settle(self) -> None:
        """After the step: take in what was measured, and go back as far as it is too far."""
        if math.isfinite(self._found):
            self.measured += 1
            share = max(CALMER, 1 / self.measured)
            self.curvature += share * (max(self._found, 0.0) - self.curvature)
        if self.distance > self.limit:
            self._go(math.sqrt(self.limit / self.distance))

    @property
    @torch.no_grad()
    def square(self) -> float:
        """|θ − θ₀|²."""
        return sum(float((p - start).double().square().sum()) for p, start in self._both())

    def _both(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(θ, θ₀) of each parameter, on its device."""
        for p, start in zip(self.parameters, self.start, strict=True):
            yield p, start.to(p.device)

    @property
    def distance(self) -> float:
        """D, as far as it is known; 0 before it was measured."""
        return self.curvature * self.square if self.measured else 0.0

    def told(self) -> dict[str, float]:
        """Where something is known: how far it is."""
        return {"distance": self.distance} if self.measured else {}

    def state_dict(self) -> dict[str, Any]:
        """The running mean, and θ₀."""
        start = [value.clone() for value in self.start]
        return {"curvature": self.curvature, "measured": self.measured, "start": start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.curvature, self.measured = state["curvature"], state["measured"]
        for mine, value in zip(self.start, state.get("start", self.start), strict=True):
            mine.copy_(value)
