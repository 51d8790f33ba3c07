"""Reward score matching (RSM, arXiv 2604.17415), its first-order form: every rollout teaches at several of its steps.

    g = 1/k Σ_i w_i·∂θ R(decode(x̂_θ(x_i))),   w_i = α_i²/(α_i² + σ_i²),   i from k steps evenly apart, x_i without gradient

Matching the score to one that is guided by the reward of the predicted picture comes to this gradient, where the guidance is
taken without the denoiser's Jacobian. Its authors find that methods of this kind do well where they weigh the steps of low
signal-to-noise ratio down, by which their predictions are worth less: w_i = SNR_i/(1 + SNR_i).

With w = 1, one step for each rollout and a window it is the lookahead. The prediction that is differentiated moves the chain
on, too, so that a rollout that is looked at k times costs T + 2k evaluations at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlr_core.chain import Cost, initial_latents, predictions
from rlr_core.chain.noise import derive_seed
from rlr_core.errors import EstimatorError
from rlr_core.estimators.base import Estimator, check_chunk, check_differentiable, my_chunks
from rlr_core.estimators.estimate import Estimate, GradientMean
from rlr_core.estimators.problem import Batch, Problem
from rlr_core.estimators.sub_chains import evenly_apart


@dataclass
class RewardScoreMatching(Estimator):
    """RSM's gradient.

    Attributes:
        draws: k, steps of each rollout whose predictions are differentiated.
        chunk: samples that go through the network together; they have the same k steps.
    """

    draws: int
    chunk: int = 1
    scores_predictions = True

    def __call__(self, problem: Problem, batch: Batch) -> Estimate:
        cost, mean, scores = Cost(), GradientMean(), []
        problem = problem.counted(cost)
        plan = self._steps(problem, batch)
        for samples in my_chunks(problem, batch, self.chunk):
            gradient, score = self._of(problem, batch, samples, plan[int(samples[0]) // self.chunk])
            mean.add(gradient)
            scores.append(score)
        collective = problem.collective
        return Estimate.of({"lookahead": mean}, collective.gather(torch.cat(scores)), cost, collective)

    def _of(self, problem: Problem, batch: Batch, samples: Tensor, steps: list[int]) -> tuple[Tensor, Tensor]:
        """The gradient (P,) of one chunk, and the mean reward of its predictions (n,)."""
        chain = problem.chain(batch)
        x0 = initial_latents(chain)[samples.to(problem.parameters[0].device)]
        gradients, scores = [], []
        for i, (_, predicted) in enumerate(predictions(chain, x0, samples, learning=steps)):
            if i in steps:
                with torch.enable_grad():
                    score = problem.score(predicted.sample, batch, samples)
                    gradients.append(_trust(problem, i) * problem.gradient(score.mean()))
                scores.append(score.detach())
            if i == steps[-1]:
                break
        return torch.stack(gradients).mean(0), torch.stack(scores).mean(0)

    def _steps(self, problem: Problem, batch: Batch) -> list[list[int]]:
        """Of each chunk the k steps, in their order."""
        generator = torch.Generator().manual_seed(derive_seed(batch.seed, "plan"))
        return evenly_apart(self.draws, range(problem.steps), len(batch) // self.chunk, generator)

    def check(self, problem: Problem, batch_size: int) -> None:
        check_chunk(problem, batch_size, self.chunk)
        check_differentiable(problem)
        if not 1 <= self.draws <= problem.steps:
            raise EstimatorError(
                f"RSM at {self.draws} steps of a chain of {problem.steps}",
                f"estimator.draws from 1 to {problem.steps}",
                "lower it, or raise sampling.steps",
            )

    def coverage(self, problem: Problem) -> Tensor:
        """No step's gradient is in it, but for the last one's: a prediction stands for the steps that follow."""
        covered = torch.zeros(problem.steps)
        covered[-1] = _trust(problem, problem.steps - 1) / problem.steps
        return covered


def _trust(problem: Problem, step: int) -> float:
    """w of a step: SNR/(1 + SNR) = α²/(α² + σ²)."""
    signal, noise = (float(scale[step]) ** 2 for scale in (problem.schedule.alpha, problem.schedule.sigma))
    return signal / (signal + noise)
