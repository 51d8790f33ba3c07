"""Local lookahead: differentiate a short sub-chain anywhere, and let the denoiser's prediction stand for the rest of the chain.

    ∂θ R(decode(x̂_θ(x_{a+h-1}))),   a drawn from 0 … T-h, x_a without gradient, its h-1 steps and the prediction with

This is the lookahead V of `lookahead.py` at the end of a sub-chain, its own θ included: h evaluations are differentiated. A
picture's chain ends where its sub-chain does, so that at h = 1 it costs (T-1)/2 + 3 evaluations in the mean, against T + 2K
of first order on the last K steps, and it learns about every step of the chain. It is biased by what V does not know of the
steps that it skips. With h = 1 and a in the last quarter it is ReFL (arXiv 2304.05977).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlr_core.chain import Cost, propagate
from rlr_core.chain.noise import derive_seed
from rlr_core.errors import EstimatorError
from rlr_core.estimators.base import Estimator, check_chunk, check_differentiable, chunks
from rlr_core.estimators.estimate import Estimate, GradientMean
from rlr_core.estimators.problem import Batch, Problem
from rlr_core.estimators.sub_chains import stratified


@dataclass
class LocalLookahead(Estimator):
    """The gradient of the lookahead at the end of a random sub-chain.

    Attributes:
        length: h, network evaluations that are differentiated: h-1 steps and the prediction.
        chunk: samples that go through the network together, each at its own steps.
    """

    length: int
    chunk: int = 1
    scores_predictions = True

    def __call__(self, problem: Problem, batch: Batch) -> Estimate:
        cost, mean, scores = Cost(), GradientMean(), []
        problem = problem.counted(cost)
        chain, x0, starts = problem.chain(batch), batch.noise.initial(), self._starts(problem, batch)
        for samples in chunks(len(batch), self.chunk):
            start = starts[samples]
            with torch.no_grad():
                x = propagate(chain, x0[samples.to(x0.device)], samples, torch.zeros_like(start), start)
            with torch.enable_grad():
                last = start + self.length - 1
                x = propagate(chain, x, samples, start, last)
                predicted = chain.predict(x, last, samples).sample
                score = problem.score(predicted, batch, samples)
                mean.add(problem.gradient(score.mean()))
            scores.append(score.detach())
        return Estimate({"lookahead": mean.part()}, torch.cat(scores), cost)

    def _starts(self, problem: Problem, batch: Batch) -> Tensor:
        """a of each sample (B,), uniform over 0 … T-h and stratified over the batch."""
        generator = torch.Generator().manual_seed(derive_seed(batch.seed, "plan"))
        choices = problem.steps - self.length + 1
        return (stratified(len(batch), generator) * choices).long().clamp(max=choices - 1)

    def check(self, problem: Problem, batch_size: int) -> None:
        check_chunk(batch_size, self.chunk)
        check_differentiable(problem)
        if self.length > problem.steps:
            raise EstimatorError(
                f"a sub-chain of {self.length} steps in a chain of {problem.steps}",
                f"estimator.sub_chain_length of at most {problem.steps}",
                "shorten the sub-chain or raise sampling.steps",
            )

    def coverage(self, problem: Problem) -> Tensor:
        """Only where the prediction is that of the last step is nothing skipped."""
        last = torch.arange(problem.steps) >= problem.steps - self.length
        return last.float() / (problem.steps - self.length + 1)
