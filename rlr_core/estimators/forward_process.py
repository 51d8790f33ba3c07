"""DiffusionNFT and AWM (arXiv 2509.16117, 2509.25050): finished pictures, noised anew, say towards what to denoise.

No chain is differentiated, and no reward. Of pictures x_T with advantages A, noised anew to levels (α, σ) of the schedule,

    −∂θ [ A·⟨x̂_old − x_T, x̂_θ⟩ + ½·β·|x̂_θ − x̂_old|² ] / |x̂_old − x_T|,   x̂ = x̂(α·x_T + σ·ε)

is ascended: predictions move towards the pictures that are better than others of their prompt, and away from the worse ones. At
θ = θ_old it is AWM's policy gradient with the matching loss in the place of the log-likelihood; later uses of the same pictures
have the second term besides, which is DiffusionNFT's loss, written out: |x̂_θ − x̂_old| stays near |A|·|x̂_old − x_T|/β. Both
take single predictions of about the same length, as DiffusionNFT's self-normalisation does.

Biased: the matching loss bounds a likelihood, and of pictures painted with guidance the prediction is no posterior mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Cost, initial_latents, rollout
from rlr_core.chain.denoiser import expand
from rlr_core.chain.noise import derive_seed, normal
from rlr_core.errors import EstimatorError
from rlr_core.estimators.base import Estimator, check_chunk, my_chunks
from rlr_core.estimators.baseline import Baseline
from rlr_core.estimators.estimate import Estimate, GradientMean
from rlr_core.estimators.problem import Batch, Problem, flatten

FURTHEST = 5.0
"""Standard deviations of the batch's rewards, which an advantage counts as at most."""


@dataclass
class ForwardProcess(Estimator):
    """The gradient of the forward-process loss.

    Attributes:
        draws: levels at which each picture is noised, stratified over the chain's steps.
        baseline: subtracted from the rewards; A = (R − β) / their standard deviation in the batch.
        proximity: β.
        batch_reuse: gradients taken from one rollout.
        chunk: samples that go through the network together.
    """

    draws: int
    baseline: Baseline
    proximity: float = 1.0
    batch_reuse: int = 1
    chunk: int = 1
    _held: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _uses: int = field(default=0, init=False, repr=False)

    def __call__(self, problem: Problem, batch: Batch) -> Estimate:
        cost = Cost()
        problem = problem.counted(cost)
        if not self._held:
            self._collect(problem, batch)
        rewards, mean, seen = self._held["rewards"], GradientMean(), []
        advantages = self._advantages(rewards, batch)
        for samples in my_chunks(problem, batch, self.chunk):
            gradient, predicted = self._gradient(problem, batch, samples, advantages[samples])
            mean.add(gradient)
            seen.append(predicted)
        self._uses += 1
        if self._uses == self.batch_reuse:
            self._held = {}
        elif self._uses == 1:
            self._held["old"] = problem.collective.gather(torch.cat(seen, 1).transpose(0, 1)).transpose(0, 1)
        return Estimate.of({"matching": mean}, rewards, cost, problem.collective)

    @torch.no_grad()
    def _collect(self, problem: Problem, batch: Batch) -> None:
        """Paint the batch with the present θ. Every process keeps all of it, so that the state of each is the state of all."""
        chain, gather = problem.chain(batch), problem.collective.gather
        x0, pictures, rewards = initial_latents(chain), [], []
        for samples in my_chunks(problem, batch, self.chunk):
            x, _ = rollout(chain, x0[samples.to(x0.device)], samples, range(problem.steps))
            pictures.append(x)
            rewards.append(problem.score(x, batch, samples))
        seed = torch.tensor(batch.seed)
        self._held = {
            "pictures": gather(torch.cat(pictures)),
            "rewards": gather(torch.cat(rewards)),
            "seed": seed,
        }
        self._uses = 0

    def _advantages(self, rewards: Tensor, batch: Batch) -> Tensor:
        advantages = rewards - self.baseline(rewards, batch.prompts, torch.arange(len(batch)))
        if self._uses == self.batch_reuse - 1 and rewards.isfinite().all():
            self.baseline.observe(rewards, batch.prompts)
        return (advantages / (rewards.std() + 1e-6)).clamp(-FURTHEST, FURTHEST)

    def _gradient(
        self, problem: Problem, batch: Batch, samples: Tensor, advantages: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean over the draws and the chunk, (P,), and what was predicted at each draw, (draws, n, …)."""
        chain, x = problem.chain(batch), self._held["pictures"][samples]
        total, seen = torch.zeros_like(flatten(problem.parameters)), []
        for number, step in enumerate(self._steps(problem.steps)):
            steps = torch.full_like(samples, step)
            level = problem.schedule.level(steps)
            noised = expand(level.alpha, x) * x + expand(level.sigma, x) * self._noise(number, x)
            with torch.enable_grad():
                predicted = problem.amplified(chain.predict(noised, steps, samples).sample)
                old = self._held["old"][number][samples] if self._uses else predicted.detach()
                total += problem.gradient(self._objective(predicted, old, x, advantages))
            seen.append(predicted.detach())
        return total / self.draws, torch.stack(seen)

    def _objective(self, predicted: Tensor, old: Tensor, x: Tensor, advantages: Tensor) -> Tensor:
        """Mean over the chunk; of the latents' numbers it is the mean, too."""
        away = old - x
        towards = -expand(advantages, x) * away * predicted
        near = self.proximity / 2 * (predicted - old).square()
        scale = away.square().flatten(1).mean(1).sqrt() + 1e-6
        return ((towards - near).flatten(1).mean(1) / scale).mean()

    def _steps(self, steps: int) -> list[int]:
        """One of each stratum."""
        generator = torch.Generator().manual_seed(derive_seed(int(self._held["seed"]), "levels"))
        places = (torch.arange(self.draws) + torch.rand(self.draws, generator=generator)) / self.draws
        return (places * steps).long().clamp(max=steps - 1).tolist()

    def _noise(self, number: int, like: Tensor) -> Tensor:
        """ε of a draw, (1, …), the same for all pictures: what differs is what their advantages are of."""
        seed = derive_seed(int(self._held["seed"]), "noised", number)
        return normal(seed, like.shape[1:], like.dtype).to(like.device)[None]

    def coverage(self, problem: Problem) -> Tensor:
        """Of no step: the chain itself is not in it."""
        return torch.zeros(problem.steps)

    def check(self, problem: Problem, batch_size: int) -> None:
        check_chunk(problem, batch_size, self.chunk)
        if batch_size < 2:
            raise EstimatorError(
                "forward-process matching of a single picture, which is neither better nor worse than another",
                "at least two pictures in a batch",
                "raise training.batch_size",
            )

    def state_dict(self) -> dict[str, Any]:
        return {"baseline": self.baseline.state_dict(), "uses": self._uses, **self._held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        held = dict(state)
        self.baseline.load_state_dict(held.pop("baseline"))
        self._uses, self._held = held.pop("uses"), held
