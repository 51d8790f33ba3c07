"""Half order: what the reward says of the end of a sub-chain whose inner steps are differentiated.

From the stored x_a, run steps a … b again with gradient, the noises z_a … z_{b-1} held fixed, to the mean M = m_b. For any
field G of M's shape with E[G] = ∂E[R]/∂M, the term ∂θ⟨G, M⟩ is unbiased for Σ_{i=a..b} g_i. A `SubChainEnd` finds such fields;
those of this file are likelihood ratios, which need no gradient of the reward:

    (R − β)/s_b · z_b                 plain, with a baseline β
    (R⁺ − R⁻)/(2·s_b) · z_b           antithetic: the chain is finished from M + s_b·z_b and from M − s_b·z_b

Only b-a+1 network evaluations are differentiated. Second term of eq. 11; with sub-chains of one step it is REINFORCE
(DDPO, arXiv 2305.13301).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import ChainLike, propagate
from rlr_core.chain.denoiser import expand
from rlr_core.chain.noise import derive_seed, normal
from rlr_core.estimators.collective import Collective
from rlr_core.estimators.problem import Batch, Problem
from rlr_core.estimators.sub_chains import SubChainPolicy, SubChains

HALF = "half order"


@dataclass(frozen=True)
class Arrival:
    """A chunk of n samples at the ends of their sub-chains.

    Attributes:
        samples: (n,) their numbers in the batch.
        drawn: their sub-chains.
        mean: (n, …) M, without graph.
        scale: (n,) s_b.
        noise: (n, …) z_b of the rollout.
        rewards: (n,) R of the rollout, which went on from M + s_b·z_b.
        baseline: (n,) β.
    """

    problem: Problem
    chain: ChainLike
    batch: Batch
    samples: Tensor
    drawn: SubChains
    mean: Tensor
    scale: Tensor
    noise: Tensor
    rewards: Tensor
    baseline: Tensor

    def leave(self, noise: Tensor) -> Tensor:
        """(n, …) x_{b+1} = M + s_b·noise."""
        return self.mean + expand(self.scale, self.mean) * noise

    def finish(self, x: Tensor) -> Tensor:
        """Rewards (n,) of chains that go on from x_{b+1} = `x` (n, …) with the rollout's later noise."""
        return finish(self.problem, self.chain, self.batch, self.samples, x, self.drawn.stop)

    def fresh_noise(self, number: int) -> Tensor:
        """(n, …) an independent draw of z_b; each sample's depends on nothing but the batch's seed and `number`."""
        seeds = [
            derive_seed(self.batch.seed, "branch", number, a, j)
            for a, j in zip(self.drawn.start.tolist(), self.samples.tolist(), strict=True)
        ]
        drawn = [normal(seed, self.mean.shape[1:], self.mean.dtype) for seed in seeds]
        return torch.stack(drawn).to(self.mean.device)

    def ratio(self, advantage: Tensor, noise: Tensor) -> Tensor:
        """(n, …) the likelihood ratio's field: advantage/s_b · z."""
        return expand(advantage / self.scale.to(advantage), noise) * noise


class SubChainEnd(ABC):
    """How ∂E[R]/∂M is estimated at the end of a sub-chain."""

    names: tuple[str, ...] = (HALF,)
    """Of the parts that it gives."""
    unbiased = True
    needs_noise = True
    needs_reward_gradient = False
    looks_ahead = False
    """Whether it asks the denoiser for a prediction at the step after the sub-chain."""

    @abstractmethod
    def fields(self, arrival: Arrival) -> dict[str, Tensor]:
        """Part → (n, …), adding up to an estimate of ∂E[R]/∂M."""

    def settle(self, collective: Collective) -> None:  # noqa: B027  (most learn nothing)
        """The batch is over: what all processes have observed may be used from now on."""

    def state_dict(self) -> dict[str, Any]:
        """What was learned."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        assert not state


class Plain(SubChainEnd):
    """(R − β)/s_b · z_b."""

    def fields(self, arrival: Arrival) -> dict[str, Tensor]:
        return {HALF: arrival.ratio(arrival.rewards - arrival.baseline, arrival.noise)}


@dataclass
class Antithetic(SubChainEnd):
    """(R⁺ − R⁻)/(2·s_b) · z, the mean over `branches` pairs ±z; the rollout is half of the first pair."""

    branches: int = 1

    def fields(self, arrival: Arrival) -> dict[str, Tensor]:
        pairs = [arrival.ratio((up - down) / 2, z) for z, up, down in mirrored(arrival, self.branches)]
        return {HALF: torch.stack(pairs).mean(0)}


def mirrored(arrival: Arrival, branches: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(z, R⁺, R⁻) of `branches` pairs; only the first R⁺ comes for free."""
    pairs = []
    for number in range(branches):
        z = arrival.fresh_noise(number) if number else arrival.noise
        up = arrival.finish(arrival.leave(z)) if number else arrival.rewards
        pairs.append((z, up, arrival.finish(arrival.leave(-z))))
    return pairs


@dataclass(frozen=True)
class HalfOrder:
    """Which sub-chains, and what is made of their ends."""

    sub_chains: SubChainPolicy
    end: SubChainEnd

    def gradients(
        self,
        problem: Problem,
        chain: ChainLike,
        batch: Batch,
        samples: Tensor,
        x: Tensor,
        drawn: SubChains,
        rewards: Tensor,
        baseline: Tensor,
    ) -> dict[str, Tensor]:
        """The weighted terms of a chunk, means over its samples: part → (P,).

        Args:
            x: (n, …) latents at the first step of each sample's sub-chain.
            drawn: sub-chains of these samples.
            rewards: (n,) R of the rollout.
            baseline: (n,) β.
        """
        last = drawn.stop - 1
        with torch.enable_grad():
            mean, scale = chain.move(propagate(chain, x, samples, drawn.start, last), last, samples)
            mean = problem.amplified(mean)
        z = chain.noise.at(last, samples)
        fields = self.end.fields(
            Arrival(problem, chain, batch, samples, drawn, mean.detach(), scale, z, rewards, baseline)
        )
        gradients = {}
        for number, (name, field) in enumerate(fields.items(), 1):
            objective = (drawn.weight.to(rewards) * (field * mean).flatten(1).sum(1)).mean()
            gradients[name] = problem.gradient(objective, retain_graph=number < len(fields))
        return gradients


@torch.no_grad()
def finish(
    problem: Problem, chain: ChainLike, batch: Batch, samples: Tensor, x: Tensor, start: Tensor
) -> Tensor:
    """Rewards (n,) of chains carried on from latents `x` (n, …), each from its own step `start` (n,)."""
    stop = torch.full_like(start, problem.steps)
    return problem.score(propagate(chain, x, samples, start, stop), batch, samples)
