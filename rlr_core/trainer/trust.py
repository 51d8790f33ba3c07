"""A trust region: how long a step is follows from how far it moves the chain, and from how far gradients agree.

    λ = r·√(κ / c),   c = KL(θ ‖ θ − λ'd) / λ'²,   d: Adam's step at rate 1

κ is what is set, `training.kl`: by how many nats, for each number of a latent, a step may move the path of a picture; the path
of a chain of many steps (`rlr_core.chain.divergence.finely`), so that T means nothing. Rank, alpha and layers change d and c,
and not κ·r², the divergence of the step that is taken. For short steps it grows with λ², so that one trial at another length λ'
tells c. It is measured on a picture of the batch at hand, at steps drawn from its chain, and only now and then, since c/|d|² is
nearly the same from one iteration to the next: what counts is its running mean.

In 16 bits rounding alone moves means further than a usual κ. Four evaluations round by themselves, so that of the differences

    ⟨m(λ') − m(0), m(3λ'/2) − m(λ'/2)⟩

the expectation is |m(λ') − m(0)|² where means move straight on, whose own square has rounding's besides: this tells how much
there is of it, and so whether λ' has to be longer.

r in [0, 1] is the share of Adam's momentum m that a new batch's gradient g confirms: the regression of g on m, which was there
before the batch was, in Adam's own metric,

    r = E⟨g, m⟩ / E⟨m, m⟩,   ⟨a, b⟩ = Σ a·b/√v

Gradients that say nothing have E⟨g, m⟩ = 0, and the LoRA stands still, where Adam at a set rate would walk; so it does where it
was carried past its maximum. The mean of ⟨g, m⟩ begins at 0, which is the warm-up. Nothing but the length is changed: the
gradient that Adam is given, its moments and its direction are what they are at any rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Cost, Counted, Denoiser, Transition, Visit, finely, shift, visit
from rlr_core.chain.noise import derive_seed
from rlr_core.estimators import Alone, Batch, Collective, Problem
from rlr_core.trainer.optimizer import moments
from rlr_core.trainer.values import kept

ETA = 1.0
"""Of the transitions that are compared, so that the divergence means the same whatever noise the chain adds."""
DRAWS = 8
"""Steps of a picture's chain that are drawn to be compared."""
OFTEN, EVERY = 8, 8
"""So many measurements come one after the other; later ones by chance, once in so many iterations, as prompts come in turns."""
FIRST_TRIAL = 1e-4
"""Rate of the first trial, before anything is known."""
TRIALS, NEAR = 6, 8.0
"""At most so many of them, until the divergence is that near to κ, or to rounding's where that is more: far above both it is no
longer as λ²."""
OUTLIER = 4.0
"""A measurement counts as at most so many times the running mean, and as at least that part of it."""
DECAY, CALMER = 0.9, 0.5
"""Of the running means: of the agreement, after an iteration, and of the curvature, after a measurement."""


@dataclass
class TrustRegion:
    """The rates of Adam's steps.

    Attributes:
        parameters: θ.
        optimizer: torch's Adam, whose next step is measured.
        kl: κ, in nats for each number of a latent.
        confirmed, momentum: running means of ⟨g, m⟩ and ⟨m, m⟩ that begin at 0; `seen` counts what is in them.
        curvature: running mean of c/|d|²; `measured` counts what is in it.
        cost: network evaluations of this iteration's measurement.
    """

    parameters: Sequence[Tensor]
    optimizer: torch.optim.Adam
    kl: float
    confirmed: float = 0.0
    momentum: float = 0.0
    seen: int = 0
    curvature: float = 0.0
    measured: int = 0
    cost: Cost = field(default_factory=Cost)
    _visit: Visit | None = None
    _new: bool = True
    _rate: float = 0.0
    _collective: Collective = field(default_factory=Alone)

    def look(self, problem: Problem, batch: Batch, steady: Denoiser, *, new_batch: bool) -> None:
        """Before an iteration's step, with θ as it is: note drawn steps of one picture's chain, where it measures.

        Args:
            steady: the problem's denoiser, which nobody interrupts: trials are in the middle of a step.
            new_batch: whether no earlier gradient was of the same batch: its own noise confirms nothing.
        """
        self.cost, self._visit, self._new, self._collective = Cost(), None, new_batch, problem.collective
        generator = torch.Generator().manual_seed(derive_seed(batch.seed, "trust"))
        if int(torch.randint(EVERY, (), generator=generator)) and self.measured >= OFTEN:
            return
        mine = problem.collective.mine(len(batch))
        sample = mine[int(torch.randint(len(mine), (), generator=generator))]
        chain = problem.counted(self.cost).chain(batch)
        found = visit(chain, sample, DRAWS, ETA, finely(chain.schedule), generator)
        self._visit = replace(found, chain=replace(chain, denoiser=Counted(steady, self.cost)))

    def rate(self, gradient: Tensor) -> float:
        """λ of the step that descends along `gradient` (P,), which Adam has not seen yet; after `look`."""
        if self._new:
            self._confirm(gradient)
        direction = moments(self.optimizer, self.parameters, gradient).step
        square = float(direction.double().square().sum())
        if self._visit and square > 0:
            self._measure(self._visit, direction, square)
        self._rate = self.signal * self._full(square)
        return self._rate

    def told(self, share: float) -> dict[str, float]:
        """Of the latest step, of whose length a schedule left `share`: see `Iteration.step`."""
        kl = (share * self.signal) ** 2 * self.kl if self._rate else 0.0
        return {"rate": share * self._rate, "signal": self.signal, "kl": kl}

    @property
    def signal(self) -> float:
        """r."""
        if not self.momentum > 0:
            return 0.0
        return min(max(self.confirmed * (1 - DECAY**self.seen) / self.momentum, 0.0), 1.0)

    def _full(self, square: float) -> float:
        """The rate at which a direction d of |d|² = `square` moves the path by κ; 0 where nothing is known."""
        curved = self.curvature * square
        return math.sqrt(self.kl / curved) if curved > 0 else 0.0

    def _confirm(self, gradient: Tensor) -> None:
        """Take in how far the gradient agrees with the momentum that was there before it."""
        before = moments(self.optimizer, self.parameters)
        if not before.count:
            return
        found = float(gradient @ before.step), float(before.mean @ before.step)
        self.confirmed += (1 - DECAY) * (found[0] - self.confirmed)
        self.momentum += (1 - DECAY) * (found[1] - self.momentum)
        self.seen += 1

    def _measure(self, visited: Visit, direction: Tensor, square: float) -> None:
        """Try the direction at lengths that come near to κ, and take the last one's curvature in."""
        tried, apart = self._full(square) or FIRST_TRIAL, 0.0
        for _ in range(TRIALS):
            apart, rounding = self._apart(tried * direction, visited)
            wanted = max(self.kl, rounding)
            if wanted / NEAR <= apart <= wanted * NEAR:
                break
            tried *= _towards(wanted / apart if apart > 0 else math.inf)
        else:
            return
        self._learn(apart / (tried**2 * square))

    def _apart(self, step: Tensor, visited: Visit) -> tuple[float, float]:
        """The path's divergence of θ and θ − `step`, and what rounding adds to it, for each number of a latent."""
        whole, half, beyond = (self._moved(k * step, visited) for k in (1.0, 0.5, 1.5))
        moved, again = shift(visited.transitions, whole), shift(half, beyond)
        found = visited.product(moved, again), visited.product(moved, moved)
        mine = torch.tensor(found, dtype=torch.float64) / visited.size
        apart, rounded = (self._collective.sum(mine) / self._collective.size).tolist()
        if not math.isfinite(apart + rounded):
            return math.inf, 0.0
        return apart, max(rounded - apart, 0.0)

    def _moved(self, step: Tensor, visited: Visit) -> dict[int, Transition]:
        """The drawn transitions of θ − `step`; θ is back afterwards."""
        sizes = [p.numel() for p in self.parameters]
        with kept(self.parameters):
            with torch.no_grad():
                for p, part in zip(self.parameters, step.split(sizes), strict=True):
                    p.sub_(part.view_as(p))
            return visited.now()

    def _learn(self, curvature: float) -> None:
        if self.measured:
            curvature = min(max(curvature, self.curvature / OUTLIER), self.curvature * OUTLIER)
        self.measured += 1
        share = max(1 - CALMER, 1 / self.measured)  # the mean of the first ones
        self.curvature += share * (curvature - self.curvature)

    def state_dict(self) -> dict[str, Any]:
        """The running means."""
        return {name: getattr(self, name) for name in KEPT}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        for name in KEPT:
            setattr(self, name, state[name])


KEPT = "confirmed", "momentum", "seen", "curvature", "measured"


def _towards(ratio: float) -> float:
    """By what a rate is multiplied to multiply a divergence by `ratio`; not more than a hundredfold at once."""
    return math.sqrt(min(max(ratio, 1e-4), 1e4))
