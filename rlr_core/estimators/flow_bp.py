"""FlowBP (arXiv 2606.11075): back-propagate the finished picture's reward along a surrogate of the chain, with few steps.

A rollout without gradient keeps the latents x_i before K of the T steps, evenly apart. Then, from the last to the first,

    λ  = ∂R(decode(x_T))/∂x_T
    g += w·∂θ (λ·m_θ,i(x_i)),      w = T/K
    λ  = λ + b·(∂m_i/∂x_i − I)ᵀ λ

The steps between pass λ on as it is, and so do those K but for the bridge b: b = 0 is FlowBP-Sparse, 0 < b < 1 dampens the
product of Jacobians as FlowBP-Bridge does, and K = T with b = 1 is back-propagation itself. Each step is run again alone:
memory is that of one, whatever K is.

The reward is that of the finished picture, where the lookahead's is that of a predicted one. With K = 1 the two differ in
nothing else: ∂θ m_i is ∂θ x̂_i times a number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlr_core.chain import Cost, initial_latents, rollout
from rlr_core.chain.noise import derive_seed
from rlr_core.errors import EstimatorError
from rlr_core.estimators.base import Estimator, check_chunk, check_differentiable, my_chunks
from rlr_core.estimators.estimate import Estimate, GradientMean
from rlr_core.estimators.length import scaled_to_unit
from rlr_core.estimators.problem import Batch, Problem, flatten
from rlr_core.estimators.sub_chains import evenly_apart


@dataclass
class SurrogateChain(Estimator):
    """FlowBP's gradient.

    Attributes:
        length: K, steps that are run again with gradient.
        bridge: b, how much of a step's Jacobian λ goes through.
        unit: whether each chunk's gradient is scaled to length 1, as the lookahead's.
        chunk: samples that go through the network together; they have the same K steps.
    """

    length: int
    bridge: float = 0.5
    unit: bool = False
    chunk: int = 1

    def __call__(self, problem: Problem, batch: Batch) -> Estimate:
        cost, mean, scores = Cost(), GradientMean(), []
        problem = problem.counted(cost)
        chain = problem.chain(batch)
        x0, starts = initial_latents(chain), self._steps(problem, batch)
        for samples in my_chunks(problem, batch, self.chunk):
            active = starts[int(samples[0]) // self.chunk]
            with torch.no_grad():
                x, kept = rollout(
                    chain, x0[samples.to(x0.device)], samples, range(problem.steps), keep=active
                )
            score, slope = self._slope(problem, batch, samples, x)
            gradient = self._gradient(problem, batch, samples, kept, slope)
            mean.add(scaled_to_unit(gradient) if self.unit else gradient)
            scores.append(score)
        collective = problem.collective
        return Estimate.of({"surrogate": mean}, collective.gather(torch.cat(scores)), cost, collective)

    @staticmethod
    def _slope(problem: Problem, batch: Batch, samples: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """R of finished latents (n, …), (n,), and the slope of its mean in them, (n, …)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            score = problem.score(x, batch, samples)
            (slope,) = problem.slopes(score.mean(), [x])
        return score.detach(), slope

    def _gradient(
        self, problem: Problem, batch: Batch, samples: Tensor, kept: dict[int, Tensor], slope: Tensor
    ) -> Tensor:
        """∂θ along the surrogate (P,), from latents before its steps and the slope at the chain's end (n, …)."""
        chain, stretch = problem.chain(batch), len(problem.limited(problem.steps)) / len(kept)
        total = torch.zeros_like(flatten(problem.parameters))
        for i in sorted(kept, reverse=True):
            with torch.enable_grad():
                x = kept[i].detach().requires_grad_(self.bridge > 0)
                mean, _ = chain.move(x, torch.full_like(samples, i), samples)
                objective = (slope.to(mean) * problem.amplified(mean)).sum()
                of = [*problem.parameters, *([x] if self.bridge else [])]
                slopes = problem.slopes(objective, of)
            total += stretch * flatten(slopes[: len(problem.parameters)])
            if self.bridge:
                slope = slope + self.bridge * (slopes[-1].to(slope) - slope)
        return total

    def _steps(self, problem: Problem, batch: Batch) -> list[list[int]]:
        """Of each chunk the K steps, of those that the problem is limited to: evenly apart, stratified over the chunks."""
        steps = problem.limited(problem.steps)
        generator = torch.Generator().manual_seed(derive_seed(batch.seed, "plan"))
        return evenly_apart(self.length, steps, len(batch) // self.chunk, generator)

    def check(self, problem: Problem, batch_size: int) -> None:
        check_chunk(problem, batch_size, self.chunk)
        check_differentiable(problem)
        steps = len(problem.limited(problem.steps))
        if not 1 <= self.length <= steps:
            raise EstimatorError(
                f"FlowBP with {self.length} of {steps} steps",
                f"estimator.first_order_steps from 1 to {steps}",
                "correct it, or raise sampling.steps",
            )

    def coverage(self, problem: Problem) -> Tensor:
        """The last step's, after which there is nothing to stand for; every one's where the surrogate is the whole chain."""
        covered = torch.zeros(problem.steps)
        if self.bridge == 1 and self.length == problem.steps:
            return covered + 1
        covered[-1] = float(problem.limited(problem.steps).stop == problem.steps)
        return covered
