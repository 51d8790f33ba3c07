"""The denoiser's prediction as a critic: V(x) = R(decode(x̂(x))), the reward of the clean picture predicted from a noisy one.

It comes for free with the model, and V(x_{b+1}) tracks the reward of the finished picture. At the end of a sub-chain (see
`half_order.py`) it serves as

    (R − V(M))/s_b · z_b                                                    a baseline: M does not depend on z_b
    c·(∇V⁺ + ∇V⁻)/2  +  ((R⁺ − R⁻) − c·(V⁺ − V⁻))/(2·s_b) · z_b             a control variate
    ∇V⁺                                                                     alone: biased by what V does not know

with V± = V(M ± s_b·z_b). The second is unbiased for any c that does not depend on z_b: both terms with V estimate ∂E[V]/∂M,
by its gradient and by its likelihood ratio. It is the idea of Q-Prop (arXiv 1611.02247) and RELAX (arXiv 1711.00123) with
a critic that nobody has to train. Only ∂x is taken of V; its θ is held fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlr_core.estimators.collective import Collective
from rlr_core.estimators.half_order import HALF, Arrival, SubChainEnd, mirrored

LOOKAHEAD = "lookahead"


def critic(arrival: Arrival, x: Tensor) -> Tensor:
    """V (n,) of x_{b+1} = `x` (n, …)."""
    predicted = arrival.chain.predict(x, arrival.drawn.stop, arrival.samples).sample
    return arrival.problem.score(predicted, arrival.batch, arrival.samples)


def slope(arrival: Arrival, x: Tensor) -> tuple[Tensor, Tensor]:
    """V (n,) and ∇V (n, …)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = critic(arrival, x)
        (gradient,) = arrival.problem.slopes(value.sum(), [x])
    return value.detach(), gradient


class LookaheadBaseline(SubChainEnd):
    """(R − V(M))/s_b · z_b; the reward needs no gradient."""

    looks_ahead = True

    @torch.no_grad()
    def fields(self, arrival: Arrival) -> dict[str, Tensor]:
        value = critic(arrival, arrival.mean)
        return {HALF: arrival.ratio(arrival.rewards - value, arrival.noise)}


class LookaheadAlone(SubChainEnd):
    """∇V⁺: the chain need not be finished, and no likelihood ratio makes noise. Biased."""

    names = (LOOKAHEAD,)
    unbiased = False
    needs_noise = False
    needs_reward_gradient = True
    looks_ahead = True

    def fields(self, arrival: Arrival) -> dict[str, Tensor]:
        return {LOOKAHEAD: slope(arrival, arrival.leave(arrival.noise))[1]}


@dataclass
class ControlVariate(SubChainEnd):
    """c·(∇V⁺ + ∇V⁻)/2 + ((R⁺ − R⁻) − c·(V⁺ − V⁻))/(2·s_b) · z, the mean over `branches` pairs ±z.

    c is one number for each sub-chain of the partition: the regression of (R⁺ − R⁻) on (V⁺ − V⁻) over earlier batches, which
    makes the likelihood ratio's residual least and turns V off where it tells nothing.

    Attributes:
        decay: how much of what was observed stays after a batch.
    """

    branches: int = 1
    decay: float = 0.95
    names = (LOOKAHEAD, HALF)
    needs_reward_gradient = True
    looks_ahead = True
    _moments: dict[int, tuple[float, float]] = field(default_factory=dict)
    _observed: list[tuple[int, float, float]] = field(default_factory=list)

    def coefficient(self, start: int) -> float:
        """c of the sub-chain that begins at a step, in [0, 1]; 1 before anything was observed."""
        product, square = self._moments.get(start, (1.0, 1.0))
        return min(max(product / square, 0.0), 1.0) if square > 0 else 1.0

    def fields(self, arrival: Arrival) -> dict[str, Tensor]:
        starts = arrival.drawn.start.tolist()
        c = arrival.rewards.new_tensor([self.coefficient(start) for start in starts])
        slopes, ratios = [], []
        for z, up, down in mirrored(arrival, self.branches):
            (above, slope_above), (below, slope_below) = (
                slope(arrival, arrival.leave(s * z)) for s in (1, -1)
            )
            truth, guess = (up - down) / 2, (above - below) / 2
            self._observed += zip(starts, truth.tolist(), guess.tolist(), strict=True)
            slopes.append(c.reshape(-1, *[1] * (z.dim() - 1)) * (slope_above + slope_below) / 2)
            ratios.append(arrival.ratio(truth - c * guess, z))
        return {LOOKAHEAD: torch.stack(slopes).mean(0), HALF: torch.stack(ratios).mean(0)}

    def settle(self, collective: Collective) -> None:
        """Blend the batch's sums into the running ones; sums that are not finite are dropped."""
        mine = torch.tensor(self._observed, dtype=torch.float64).reshape(-1, 3)
        sums: dict[int, tuple[float, float]] = {}
        for start, truth, guess in collective.gather(mine).tolist():
            product, square = sums.get(int(start), (0.0, 0.0))
            sums[int(start)] = (product + truth * guess, square + guess * guess)
        for start, (product, square) in sums.items():
            if abs(product) + square < float("inf"):
                old = self._moments.get(start, (0.0, 0.0))
                self._moments[start] = (self.decay * old[0] + product, self.decay * old[1] + square)
        self._observed = []

    def state_dict(self) -> dict[str, Any]:
        return {str(start): list(moments) for start, moments in self._moments.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._moments = {int(start): (p, s) for start, (p, s) in state.items()}
        self._observed = []
