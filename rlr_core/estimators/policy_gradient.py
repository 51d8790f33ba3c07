"""DDPO (arXiv 2305.13301): the policy gradient over all steps, with the clipped importance ratio of PPO (arXiv 1707.06347).

A rollout is used for several gradients in a row, while θ moves away from the θ_old that generated it:

    D · Σ_i ∂θ min(ρ_i·A, clip(ρ_i, 1 ± c)·A),   ρ_i = (p_θ(x_{i+1}|x_i) / p_old(x_{i+1}|x_i))^(1/D)

ρ_i is the ratio for one of the D dimensions of a latent, in geometric mean: the scale on which its authors' code clips. At
θ = θ_old all ρ_i are 1, and the factor D makes this REINFORCE.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Cost, initial_latents, rollout
from rlr_core.chain.denoiser import expand
from rlr_core.errors import EstimatorError
from rlr_core.estimators.base import Estimator, check_chunk, my_chunks
from rlr_core.estimators.baseline import Baseline
from rlr_core.estimators.estimate import Estimate, GradientMean
from rlr_core.estimators.problem import Batch, Problem, flatten


@dataclass
class ClippedPolicyGradient(Estimator):
    """DDPO's clipped policy gradient.

    Attributes:
        clip: c, how far a ratio may leave 1 in the direction that its advantage favours.
        baseline: subtracted from the rewards; A = R − β.
        batch_reuse: gradients taken from one rollout (inner epochs).
        normalise: divide the advantages by their standard deviation over the batch (scales the gradient). DDPO divides by
            that of each prompt's rewards, which it collects over many batches.
        chunk: samples that go through the network together.
    """

    clip: float
    baseline: Baseline
    batch_reuse: int = 1
    normalise: bool = False
    chunk: int = 1
    _latents: Tensor | None = field(default=None, init=False, repr=False)
    _rewards: Tensor | None = field(default=None, init=False, repr=False)
    _uses: int = field(default=0, init=False, repr=False)

    def __call__(self, problem: Problem, batch: Batch) -> Estimate:
        cost = Cost()
        problem = problem.counted(cost)
        if self._latents is None:
            self._collect(problem, batch)
        assert self._latents is not None and self._rewards is not None
        advantages = self._advantages(self._rewards, batch)
        mean = GradientMean()
        for samples in my_chunks(problem, batch, self.chunk):
            mean.add(self._gradient(problem, batch, samples, advantages[samples]))
        rewards, self._uses = self._rewards, self._uses + 1
        if self._uses == self.batch_reuse:
            self._latents = self._rewards = None
        return Estimate.of({"policy gradient": mean}, rewards, cost, problem.collective)

    @torch.no_grad()
    def _collect(self, problem: Problem, batch: Batch) -> None:
        """Generate the batch with the present θ: latents x_0 … x_T as (T+1, B, …).

        Every process keeps those of the whole batch, so that the state of each is the state of all.
        """
        chain, T = problem.chain(batch), problem.steps
        x0, gather = initial_latents(chain), problem.collective.gather
        paths, rewards = [], []
        for samples in my_chunks(problem, batch, self.chunk):
            x, kept = rollout(chain, x0[samples.to(x0.device)], samples, range(T), keep=range(T))
            paths.append(torch.stack([*kept.values(), x]))
            rewards.append(problem.score(x, batch, samples))
        self._latents = gather(torch.cat(paths, dim=1).transpose(0, 1)).transpose(0, 1)
        self._rewards, self._uses = gather(torch.cat(rewards)), 0

    def _advantages(self, rewards: Tensor, batch: Batch) -> Tensor:
        advantages = rewards - self.baseline(rewards, batch.prompts, torch.arange(len(batch)))
        if self._uses == self.batch_reuse - 1 and rewards.isfinite().all():
            self.baseline.observe(rewards, batch.prompts)
        return advantages / (advantages.std() + 1e-6) if self.normalise else advantages

    def _gradient(self, problem: Problem, batch: Batch, samples: Tensor, advantages: Tensor) -> Tensor:
        """Sum over the steps that add noise, mean over the chunk, (P,)."""
        assert self._latents is not None
        chain, total = problem.chain(batch), torch.zeros_like(flatten(problem.parameters))
        for i in problem.scales.nonzero().squeeze(1).tolist():
            step = torch.full_like(samples, i)
            x, reached = (self._latents[k][samples] for k in (i, i + 1))
            with torch.enable_grad():
                mean, scale = chain.move(x, step, samples)
                mean = problem.amplified(mean)
                log_ratio = self._log_ratio(reached, mean, scale, chain.noise.at(step, samples))
                objective = torch.minimum(
                    log_ratio.exp() * advantages, self._clipped(log_ratio) * advantages
                ).mean()
                total += problem.gradient(x[0].numel() * objective)
        return total

    def _log_ratio(self, reached: Tensor, mean: Tensor, scale: Tensor, z: Tensor) -> Tensor:
        """(log p_θ(x_{i+1}|x_i) − log p_old(x_{i+1}|x_i)) / D, (n,); the old one is −|z|²/2.

        In the first use θ is θ_old, and the value is exactly 0: rounding, magnified by 1/s_i, must not reach the clip.
        """
        deviation = (reached - mean) / expand(scale, mean)
        log_ratio = (z.square() - deviation.square()).flatten(1).mean(1) / 2
        return log_ratio - log_ratio.detach() if self._uses == 0 else log_ratio

    def _clipped(self, log_ratio: Tensor) -> Tensor:
        return log_ratio.exp().clamp(1 - self.clip, 1 + self.clip)

    def coverage(self, problem: Problem) -> Tensor:
        return (problem.scales > 0).float()

    def check(self, problem: Problem, batch_size: int) -> None:
        check_chunk(problem, batch_size, self.chunk)
        if self.normalise and batch_size < 2:
            raise EstimatorError(
                f"advantages divided by their standard deviation in a batch of {batch_size}",
                "at least two pictures in a batch",
                "raise training.batch_size, or set estimator.normalise = false",
            )
        if problem.eta == 0:
            raise EstimatorError(
                "η = 0 with a policy gradient: a deterministic chain has no noise to take a likelihood ratio of",
                "sampling.eta above 0 (1 is best)",
                "set sampling.eta = 1, or choose another estimator",
            )

    def state_dict(self) -> dict[str, Any]:
        held = {} if self._latents is None else {"latents": self._latents, "rewards": self._rewards}
        return {"baseline": self.baseline.state_dict(), "uses": self._uses, **held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.baseline.load_state_dict(state["baseline"])
        self._uses, self._latents, self._rewards = state["uses"], state.get("latents"), state.get("rewards")
