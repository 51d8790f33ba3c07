"""Half order: a likelihood ratio at the end of a sub-chain whose inner steps are differentiated.

From the stored x_a, run steps a … b again with gradient, the noises z_a … z_{b-1} held fixed, to the mean M = m_b. The term is

    (R − β)/s_b · ∂θ⟨z_b, M⟩                 plain, with a baseline β
    (R⁺ − R⁻)/(2·s_b) · ∂θ⟨z_b, M⟩           antithetic: the chain is finished from M + s_b·z_b and from M − s_b·z_b

unbiased for Σ_{i=a..b} g_i. Only b-a+1 network evaluations are differentiated, and the reward needs no gradient.
Second term of eq. 11; with sub-chains of one step it is REINFORCE (DDPO, arXiv 2305.13301).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlr_core.chain import ChainLike, propagate
from rlr_core.chain.denoiser import expand
from rlr_core.estimators.problem import Batch, Problem
from rlr_core.estimators.sub_chains import SubChainPolicy, SubChains


@dataclass(frozen=True)
class HalfOrder:
    """Which sub-chains, and whether each is finished twice.

    Attributes:
        sub_chains: how they are chosen.
        antithetic: finish the chain with −z_b too; needs no baseline.
    """

    sub_chains: SubChainPolicy
    antithetic: bool = False

    name = "half order"

    def gradient(
        self,
        problem: Problem,
        chain: ChainLike,
        batch: Batch,
        samples: Tensor,
        x: Tensor,
        drawn: SubChains,
        rewards: Tensor,
        baseline: Tensor,
    ) -> Tensor:
        """The weighted term of a chunk, mean over its samples, (P,).

        Args:
            x: (n, …) latents at the first step of each sample's sub-chain.
            drawn: sub-chains of these samples.
            rewards: (n,) R of the rollout, which is R⁺.
            baseline: (n,) β.
        """
        last = drawn.stop - 1
        with torch.enable_grad():
            mean, scale = chain.move(propagate(chain, x, samples, drawn.start, last), last, samples)
        z = chain.noise.at(last, samples)
        if self.antithetic:
            mirrored = mean.detach() - expand(scale, mean) * z
            advantage = (rewards - finish(problem, chain, batch, samples, mirrored, drawn.stop)) / 2
        else:
            advantage = rewards - baseline
        weight = advantage * (drawn.weight / scale).to(advantage)
        return problem.gradient((weight * (z * mean).flatten(1).sum(1)).mean())


@torch.no_grad()
def finish(
    problem: Problem, chain: ChainLike, batch: Batch, samples: Tensor, x: Tensor, start: Tensor
) -> Tensor:
    """Rewards (n,) of chains carried on from latents `x` (n, …), each from its own step `start` (n,)."""
    stop = torch.full_like(start, problem.steps)
    return problem.score(propagate(chain, x, samples, start, stop), batch, samples)
