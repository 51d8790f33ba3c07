"""ReFL (arXiv 2304.05977): stop the chain at a random late step and back-propagate the reward of the picture predicted there.

    ∂θ R(decode(x̂_θ(x_t, t))),   t drawn uniformly from the last steps, x_t without gradient

Biased: earlier steps are held fixed, and later ones are replaced by one prediction.
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
from rlr_core.estimators.problem import Batch, Problem


@dataclass
class RewardFeedback(Estimator):
    """ReFL's gradient.

    Attributes:
        window: the last steps that t is drawn from; its authors take the last quarter.
        chunk: samples that go through the network together.
    """

    window: int
    chunk: int = 1
    scores_predictions = True

    def __call__(self, problem: Problem, batch: Batch) -> Estimate:
        cost, mean, scores = Cost(), GradientMean(), []
        problem = problem.counted(cost)
        generator = torch.Generator().manual_seed(derive_seed(batch.seed, "plan"))
        t = problem.steps - 1 - int(torch.randint(self.window, (), generator=generator))
        chain = problem.chain(batch)
        x0 = initial_latents(chain)
        for samples in my_chunks(problem, batch, self.chunk):
            with torch.no_grad():
                x, _ = rollout(chain, x0[samples.to(x0.device)], samples, range(t))
            with torch.enable_grad():
                predicted = chain.predict(x, torch.full_like(samples, t), samples).sample
                score = problem.score(predicted, batch, samples)
                mean.add(problem.gradient(score.mean()))
            scores.append(score.detach())
        collective = problem.collective
        return Estimate.of({"lookahead": mean}, collective.gather(torch.cat(scores)), cost, collective)

    def check(self, problem: Problem, batch_size: int) -> None:
        check_chunk(problem, batch_size, self.chunk)
        check_differentiable(problem)
        if not 1 <= self.window <= problem.steps:
            raise EstimatorError(
                f"ReFL with the last {self.window} steps in a chain of {problem.steps}",
                f"1 to {problem.steps} steps",
                "correct estimator.first_order_steps or sampling.steps",
            )

    def coverage(self, problem: Problem) -> Tensor:
        """No step's gradient is in it, but for the last one's: a prediction stands for the steps that follow."""
        covered = torch.zeros(problem.steps)
        covered[-1] = 1 / self.window
        return covered
