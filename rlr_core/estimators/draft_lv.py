"""DRaFT-LV (arXiv 2309.17400, section 3.3): the last step's gradient, averaged over several noisings of the finished picture.

After a rollout, x_T is noised to the level of the last step anew, and that step alone is differentiated again: DRaFT-1 with
less variance, for one more forward and backward pass each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlr_core.chain import Cost, initial_latents, rollout
from rlr_core.chain.denoiser import expand
from rlr_core.chain.noise import derive_seed, normal
from rlr_core.estimators.base import Estimator, check_chunk, check_differentiable, my_chunks
from rlr_core.estimators.estimate import Estimate, GradientMean
from rlr_core.estimators.problem import Batch, Problem


@dataclass
class LowVarianceDraft(Estimator):
    """DRaFT-LV's gradient.

    Attributes:
        draws: differentiated last steps; the first is the rollout's own (DRaFT-1), its authors take 2.
        chunk: samples that go through the network together.
    """

    draws: int = 2
    chunk: int = 1

    def __call__(self, problem: Problem, batch: Batch) -> Estimate:
        cost, gradient, rewards = Cost(), GradientMean(), []
        problem = problem.counted(cost)
        chain, last = problem.chain(batch), problem.steps - 1
        x0 = initial_latents(chain)
        for samples in my_chunks(problem, batch, self.chunk):
            with torch.no_grad():
                x, _ = rollout(chain, x0[samples.to(x0.device)], samples, range(last))
            step, gradients = torch.full_like(samples, last), []
            z = chain.noise.at(step, samples)
            for number in range(self.draws):
                with torch.enable_grad():
                    mean, scale = chain.move(x, step, samples)
                    final = mean + expand(scale, mean) * z
                    score = problem.score(final, batch, samples)
                    gradients.append(problem.gradient(score.mean()))
                if number == 0:
                    rewards.append(score.detach())
                fresh, z = (_noise(batch, samples, (word, number), x) for word in ("level", "step"))
                level = problem.schedule.level(step)
                x = expand(level.alpha, x) * final.detach() + expand(level.sigma, x) * fresh
            gradient.add(torch.stack(gradients).mean(0))
        collective = problem.collective
        return Estimate.of({"first order": gradient}, collective.gather(torch.cat(rewards)), cost, collective)

    def check(self, problem: Problem, batch_size: int) -> None:
        check_chunk(problem, batch_size, self.chunk)
        check_differentiable(problem)

    def coverage(self, problem: Problem) -> Tensor:
        """The last step's, at re-noised pictures of nearly the same distribution."""
        covered = torch.zeros(problem.steps)
        covered[-1] = 1
        return covered


def _noise(batch: Batch, samples: Tensor, words: tuple[str, int], like: Tensor) -> Tensor:
    """Fresh noise of these samples, (n, …) as `like`."""
    seeds = [derive_seed(batch.seed, *words, j) for j in samples.tolist()]
    return torch.stack([normal(seed, like.shape[1:], like.dtype) for seed in seeds]).to(like)
