"""Zeroth order: perturb the parameters at the steps S and look at the reward only.

With e ~ N(0, I) in parameter space, the steps in S run with θ + ς·e and the others with θ:

    (R − β)·e/ς                  one-sided, as published (third term of eq. 11)
    (R⁺ − R⁻)/(2ς)·e             antithetic (SPSA): ±ς with the same x_0 and z

Unbiased for the gradient of the ς-smoothed objective E_e[J(θ + ς·e at S)]. e is regenerated from its seed, never stored.
All samples of a chunk share one e.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rlr_core.chain import ChainLike, Noise, Prediction, Schedule, Transition
from rlr_core.chain.noise import normal
from rlr_core.estimators.problem import flatten


@dataclass(frozen=True)
class ZerothOrder:
    """Perturbation of every step that no other part covers.

    Attributes:
        sigma: ς, the standard deviation of the perturbation of each parameter.
        antithetic: a second rollout with −ς instead of a baseline.
    """

    sigma: float
    antithetic: bool = False

    name = "zeroth order"

    def gradient(self, parameters: Sequence[Tensor], seed: int, advantages: Tensor) -> Tensor:
        """mean(advantages)/ς · e, (P,): advantages (n,) are R − β, or (R⁺ − R⁻)/2."""
        return flatten(direction(parameters, seed)) * (advantages.mean() / self.sigma)


def direction(parameters: Sequence[Tensor], seed: int) -> list[Tensor]:
    """e: one standard normal tensor for each parameter."""
    flat = normal(seed, (sum(p.numel() for p in parameters),), parameters[0].dtype).to(parameters[0].device)
    return [
        part.view_as(p)
        for part, p in zip(flat.split([p.numel() for p in parameters]), parameters, strict=True)
    ]


@contextmanager
def perturbed(parameters: Sequence[Tensor], seed: int, amount: float) -> Iterator[None]:
    """θ + amount·e inside; on leaving, θ is back bit for bit.

    Works on `.data`, so that graphs recorded with θ outside stay valid.
    """
    original = [p.data.clone() for p in parameters]
    try:
        for p, e in zip(parameters, direction(parameters, seed), strict=True):
            p.data.add_(e, alpha=amount)
        yield
    finally:
        for p, value in zip(parameters, original, strict=True):
            p.data.copy_(value)


@dataclass(frozen=True)
class PerturbedChain:
    """A chain that runs with θ + amount·e wherever `mask` (B, T) says so.

    A perturbed step is never differentiated: its graph would be read with θ restored.
    """

    chain: ChainLike
    parameters: Sequence[Tensor]
    seed: int
    amount: float
    mask: Tensor

    @property
    def schedule(self) -> Schedule:
        return self.chain.schedule

    @property
    def noise(self) -> Noise:
        return self.chain.noise

    def predict(self, x: Tensor, step: Tensor, samples: Tensor) -> Prediction:
        """See `ChainLike.predict`; with θ as it is, which any critic may do."""
        return self.chain.predict(x, step, samples)

    def move(self, x: Tensor, step: Tensor, samples: Tensor) -> Transition:
        """See `ChainLike.move`; at most two network calls, one for each half of the mask."""
        on = self.mask[samples, step]
        if not on.any():
            return self.chain.move(x, step, samples)
        assert not torch.is_grad_enabled(), "a perturbed step cannot be differentiated"
        if on.all():
            return self._perturbed_move(x, step, samples)
        mean, scale = torch.empty_like(x), torch.empty(len(step), dtype=torch.float64)
        for move, chosen in ((self._perturbed_move, on), (self.chain.move, ~on)):
            rows = chosen.nonzero().squeeze(1).to(x.device)
            mean[rows], scale[chosen] = move(x[rows], step[chosen], samples[chosen])
        return Transition(mean, scale)

    def _perturbed_move(self, x: Tensor, step: Tensor, samples: Tensor) -> Transition:
        with perturbed(self.parameters, self.seed, self.amount):
            return self.chain.move(x, step, samples)
