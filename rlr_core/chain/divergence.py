"""How far apart the chains of two denoisers are: the Kullback-Leibler divergence of their paths, in closed form.

    KL = E[ Σ_i |m_i − m'_i|² / (2·s_i²) ],   x_0 … x_{T-1} from the first of the two

Both add the same noise to other means, so that each step's conditional divergence is that of two Gaussians of one covariance,
and the chain rule adds them up. A step without noise has none that is finite: the path is followed up to it. For η = 1 a step's
term is ½·(SNR_{i+1} − SNR_i)·|x̂ − x̂'|², SNR = α²/σ² (arXiv 2107.00630, eq. 13).

The sum over all steps is estimated from a few that are drawn: the state before each, and the mean from there, are noted while
one θ is in the denoiser, and compared when another one is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlr_core.chain.chain import Chain, initial_latents, predictions
from rlr_core.chain.schedule import Schedule
from rlr_core.chain.transition import Transition, transition

FLOOR = 0.5
"""Of the draws of steps, the share that goes to all alike: it bounds the weights, whatever the denoisers differ in."""

Shift = dict[int, Tensor]
"""Step → by how much the mean after it differs, (1, …) float64."""


def divergence(one: Transition, other: Transition) -> Tensor:
    """|m − m'|²/(2·s²) of each sample, (n,) float64; 0 where nothing differs, infinite where a step without noise does."""
    apart = (one.mean - other.mean).double().flatten(1).square().sum(1).cpu()
    return torch.where(apart == 0, 0.0, apart / (2 * one.scale.double().cpu() ** 2))


def noisy(schedule: Schedule, eta: float) -> Tensor:
    """(T,) which steps add noise, and so have a divergence."""
    return schedule.scales(eta) > 0


def finely(schedule: Schedule) -> Tensor:
    """By what each step's term counts, (T,) float64, for the sum to be that of a chain of many steps between the same levels.

    A long step adds little noise for its length: from T = 10 to 50 the divergence of a LoRA falls to a quarter. Where denoisers
    differ by the same velocity all along a step from SNR S to S', the many short steps in its place add up to

        ln((1+S')/(1+S)) · (1+S)/(S'−S)

    of its own term: 1 for a short one. Steps to S' = ∞ have 0.
    """
    before, after = _signal_to_noise(schedule).unfold(0, 2, 1).T
    counts = torch.log1p((after - before) / (1 + before)) * (1 + before) / (after - before)
    return torch.where(after.isfinite(), counts, 0.0)


def step_probabilities(schedule: Schedule, eta: float, counts: Tensor) -> Tensor:
    """With which a step is drawn, (T,) float64: as its term would be if denoisers differed by as much velocity at every step.

    That is `counts`·(S'−S)/(1+S), mixed with a `FLOOR` of all alike. A step without noise has 0.
    """
    before, after = _signal_to_noise(schedule).unfold(0, 2, 1).T
    drawn = noisy(schedule, eta)
    share = torch.where(drawn, counts * (after - before) / (1 + before), 0.0)
    return (1 - FLOOR) * share / share.sum() + FLOOR * drawn / drawn.sum()


def _signal_to_noise(schedule: Schedule) -> Tensor:
    """S = α²/σ², (T+1,)."""
    return (schedule.alpha / schedule.sigma) ** 2


@dataclass(frozen=True)
class Visit:
    """Drawn steps of one sample's chain, as they were under the θ that walked it.

    Attributes:
        sample: (1,) its number in the batch.
        latents: step → (1, …) before it.
        transitions: step → from there, under that θ.
        weights: step → by which its term counts, so that the sum's expectation is that over all steps.
        eta: of the transitions that are compared, whatever the chain's own is.
    """

    chain: Chain
    sample: Tensor
    latents: dict[int, Tensor]
    transitions: dict[int, Transition]
    weights: dict[int, float]
    eta: float

    @property
    def size(self) -> int:
        """How many numbers a latent has."""
        return next(iter(self.latents.values())).numel()

    def divergence(self) -> float:
        """In nats, from the path of the denoiser as it is now; one evaluation for each drawn step."""
        moved = shift(self.transitions, self.now())
        return self.product(moved, moved)

    def product(self, one: Shift, other: Shift) -> float:
        """Σ_i ⟨a_i, b_i⟩/(2·s_i²) over all steps, in nats: a shift's with itself is the divergence that it makes.

        Shifts with rounding errors of their own have them in the first and not, in expectation, in ⟨a, b⟩.
        """
        return sum(
            weight * _product(one[i], other[i], self.transitions[i].scale)
            for i, weight in self.weights.items()
        )

    @torch.no_grad()
    def now(self) -> dict[int, Transition]:
        """Step → from the same state, with the denoiser as it is now; one evaluation for each drawn step."""
        return {i: self._now(i) for i in self.weights}

    def _now(self, i: int) -> Transition:
        step, schedule = torch.tensor([i]), self.chain.schedule
        predicted = self.chain.predict(self.latents[i], step, self.sample)
        return transition(predicted, schedule.level(step), schedule.level(step + 1), self.eta)


def shift(one: dict[int, Transition], other: dict[int, Transition]) -> Shift:
    """m' − m of each step."""
    return {i: (other[i].mean - one[i].mean).double() for i in one}


def _product(one: Tensor, other: Tensor, scale: Tensor) -> float:
    return float((one * other).sum()) / (2 * float(scale) ** 2)


@torch.no_grad()
def visit(
    chain: Chain, sample: int, draws: int, eta: float, counts: Tensor, generator: torch.Generator
) -> Visit:
    """Walk one sample's chain as far as a drawn step wants it, and note the drawn ones.

    Args:
        draws: of steps, stratified; a step that is drawn twice is noted once, and counts twice.
        eta: as in `Visit`; some step has to add noise with it.
        counts: (T,) by what each step's term counts: 1 for the path's own divergence, or `finely`.
    """
    p = step_probabilities(chain.schedule, eta, counts)
    places = (torch.arange(draws) + torch.rand(draws, generator=generator, dtype=torch.float64)) / draws
    drawn = torch.searchsorted(p.cumsum(0), places * p.sum(), right=True).clamp(max=len(p) - 1).tolist()
    weights = {i: float(counts[i] / p[i]) * drawn.count(i) / draws for i in sorted(set(drawn))}
    found, schedule = Visit(chain, torch.tensor([sample]), {}, {}, weights, eta), chain.schedule
    start = initial_latents(chain)
    walk = predictions(chain, start[found.sample.to(start.device)], found.sample)
    for i, (x, predicted) in zip(range(max(drawn) + 1), walk, strict=False):
        if i in weights:
            step = torch.tensor([i])
            found.latents[i] = x
            found.transitions[i] = transition(predicted, schedule.level(step), schedule.level(step + 1), eta)
    return found
