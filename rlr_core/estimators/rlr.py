"""Recursive Likelihood Ratio (arXiv 2502.00639, eq. 11, Theorem 5.1): first, half and zeroth order in one rollout.

Each part covers its own steps: first order the last K, half order a sub-chain before them, zeroth order every step that is
left. With any of the three absent this is also the family of its ablations and of its rivals (see `library.py`).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import ChainLike, Cost, initial_latents, rollout
from rlr_core.chain.denoiser import expand
from rlr_core.chain.noise import derive_seed
from rlr_core.errors import EstimatorError
from rlr_core.estimators.base import Estimator, check_chunk, check_differentiable, chunks, my_chunks
from rlr_core.estimators.baseline import Baseline
from rlr_core.estimators.estimate import Estimate, GradientMean
from rlr_core.estimators.first_order import FirstOrder
from rlr_core.estimators.half_order import HalfOrder, finish
from rlr_core.estimators.problem import Batch, Problem
from rlr_core.estimators.sub_chains import SubChains
from rlr_core.estimators.zeroth_order import PerturbedChain, ZerothOrder


@dataclass(frozen=True)
class Division:
    """How the steps of a batch are divided among the parts: K, sub-chains, and the (B, T) steps left to the zeroth order."""

    tail: int
    sub_chains: list[SubChains]
    rest: Tensor


@dataclass
class Rollout:
    """One chunk after its rollout.

    Attributes:
        samples: (n,) their numbers in the batch.
        perturbation: the seed of e.
        latents: step → latents (n, …) before it, for the first steps of sub-chains.
        rewards: (n,).
        squares: of each drawn sub-chain, |the gradient of its term|², once that is known.
    """

    samples: Tensor
    chain: ChainLike
    perturbation: int
    latents: dict[int, Tensor]
    rewards: Tensor
    squares: list[float] = field(default_factory=list)

    def at(self, start: Tensor) -> Tensor:
        """Latents (n, …), each sample's before its own step `start` (n,)."""
        gathered = torch.empty_like(self.latents[int(start[0])])
        for step, latents in self.latents.items():
            gathered = torch.where(expand(start == step, latents).bool(), latents, gathered)
        return gathered


@dataclass
class RecursiveLikelihoodRatio(Estimator):
    """The composition of up to three parts.

    Attributes:
        first: the differentiated tail; needs a differentiable reward.
        half: sub-chains before the tail; needs η > 0.
        zeroth: perturbed parameters at every step that the others leave.
        baseline: for the likelihood ratios that are not antithetic.
        chunk: samples that go through the network together; memory grows with it, and the standard error is measured
            between chunks.
    """

    first: FirstOrder | None
    half: HalfOrder | None
    zeroth: ZerothOrder | None
    baseline: Baseline
    chunk: int = 1

    def __call__(self, problem: Problem, batch: Batch) -> Estimate:
        cost = Cost()
        problem = problem.counted(cost)
        division = self._divide(problem, batch)
        means = {name: GradientMean() for name in self._names()}
        x0 = initial_latents(problem.chain(batch))
        rollouts = [
            self._roll(problem, batch, division, x0, samples, means)
            for samples in my_chunks(problem, batch, self.chunk)
        ]
        rewards = problem.collective.gather(torch.cat([rolled.rewards for rolled in rollouts]))
        if self.half:
            alone = torch.arange(len(batch))
            beta = self.baseline(rewards, batch.prompts, alone)
            for rolled in rollouts:
                terms = self._half_order(problem, batch, division, rolled, beta[rolled.samples])
                for name, gradient in terms.items():
                    means[name].add(gradient)
        if self.zeroth:
            sharing = torch.arange(len(batch)) // self.chunk
            beta = self.baseline(rewards, batch.prompts, sharing)
            for rolled in rollouts:
                means[self.zeroth.name].add(
                    self._zeroth_order(problem, batch, division, x0, rolled, beta[rolled.samples])
                )
        if rewards.isfinite().all():
            self.baseline.observe(rewards, batch.prompts)
        if self.half:
            squares = torch.tensor([rolled.squares for rolled in rollouts], dtype=torch.float64)
            self._observe(self.half, batch, division, problem.collective.gather(squares))
            self.half.end.settle(problem.collective)
        return Estimate.of(means, rewards, cost, problem.collective)

    def _names(self) -> list[str]:
        """Of the parts."""
        first = [self.first.name] if self.first else []
        return [
            *first,
            *(self.half.end.names if self.half else ()),
            *([self.zeroth.name] if self.zeroth else []),
        ]

    def _divide(self, problem: Problem, batch: Batch) -> Division:
        generator = torch.Generator().manual_seed(derive_seed(batch.seed, "plan"))
        steps = torch.arange(problem.steps)
        tail = self.first.draw(generator) if self.first else 0
        before = problem.steps - tail
        sub_chains = (
            self.half.sub_chains.draw(len(batch), problem.limited(before), generator) if self.half else []
        )
        rest = (steps < before).expand(len(batch), -1)
        for drawn in sub_chains:
            rest = rest & ~((drawn.start[:, None] <= steps) & (steps < drawn.stop[:, None]))
        return Division(tail, sub_chains, rest)

    def _roll(
        self,
        problem: Problem,
        batch: Batch,
        division: Division,
        x0: Tensor,
        samples: Tensor,
        means: dict[str, GradientMean],
    ) -> Rollout:
        """Generate a chunk; the first-order gradient is taken at once, so that its graph does not stay."""
        perturbation = derive_seed(batch.seed, "perturbation", int(samples[0]))
        chain = self._perturb(problem, batch, division, perturbation, +1)
        starts = {step for drawn in division.sub_chains for step in drawn.start[samples].tolist()}
        before = problem.steps - division.tail
        with torch.no_grad():
            x, latents = rollout(chain, x0[samples.to(x0.device)], samples, range(before), keep=starts)
        with torch.set_grad_enabled(self.first is not None):
            rerun = self.first is not None and self.first.rerun
            x, _ = rollout(chain, x, samples, range(before, problem.steps), rerun=rerun)
            scores = problem.score(x, batch, samples)
            if self.first:
                means[self.first.name].add(problem.gradient(scores.mean()))
        return Rollout(samples, chain, perturbation, latents, scores.detach())

    def _perturb(self, problem: Problem, batch: Batch, division: Division, seed: int, sign: int) -> ChainLike:
        chain = problem.chain(batch)
        if not self.zeroth:
            return chain
        return PerturbedChain(chain, problem.parameters, seed, sign * self.zeroth.sigma, division.rest)

    def _half_order(
        self, problem: Problem, batch: Batch, division: Division, rolled: Rollout, beta: Tensor
    ) -> dict[str, Tensor]:
        """Part → (P,), sums over the drawn sub-chains of each sample."""
        assert self.half
        totals: dict[str, Tensor] = {}
        for drawn in division.sub_chains:
            mine = drawn.of(rolled.samples)
            x, rewards = rolled.at(mine.start), rolled.rewards
            terms = self.half.gradients(problem, rolled.chain, batch, rolled.samples, x, mine, rewards, beta)
            together = torch.stack(list(terms.values())).sum(0)
            rolled.squares.append(float(together.double().square().sum()))
            totals = {name: totals.get(name, 0) + gradient for name, gradient in terms.items()}
        return totals

    def _observe(self, half: HalfOrder, batch: Batch, division: Division, squares: Tensor) -> None:
        """The policy learns from the `squares` (chunks, sub-chains) of the whole batch, but for those that are not finite."""
        for samples, row in zip(chunks(len(batch), self.chunk), squares.tolist(), strict=True):
            for drawn, square in zip(division.sub_chains, row, strict=True):
                if math.isfinite(square):
                    half.sub_chains.observe(drawn.of(samples), square)
        half.sub_chains.settle()

    def _zeroth_order(
        self, problem: Problem, batch: Batch, division: Division, x0: Tensor, rolled: Rollout, beta: Tensor
    ) -> Tensor:
        assert self.zeroth
        advantages = rolled.rewards - beta
        if self.zeroth.antithetic:
            mirrored = self._perturb(problem, batch, division, rolled.perturbation, -1)
            start = torch.zeros_like(rolled.samples)
            x = x0[rolled.samples.to(x0.device)]
            advantages = (rolled.rewards - finish(problem, mirrored, batch, rolled.samples, x, start)) / 2
        return self.zeroth.gradient(problem.parameters, rolled.perturbation, advantages)

    def coverage(self, problem: Problem) -> Tensor:
        T = problem.steps
        if self.zeroth:
            return torch.ones(T)
        covered = self.first.coverage(T) if self.first else torch.zeros(T)
        if self.half and self.half.end.unbiased:
            steps = problem.limited(T - (self.first.high if self.first else 0))
            covered[steps.start : steps.stop] = self.half.sub_chains.coverage(steps)
        return covered

    def check(self, problem: Problem, batch_size: int) -> None:
        check_chunk(problem, batch_size, self.chunk)
        if self.zeroth and not self.zeroth.antithetic and self.chunk == batch_size:
            warnings.warn(
                "the whole batch shares one perturbation, which leaves no baseline: lower estimator.chunk",
                stacklevel=2,
            )
        self._check_first(problem)
        self._check_half(problem)

    def _check_first(self, problem: Problem) -> None:
        if self.first is None:
            return
        check_differentiable(problem, "the first-order part")
        if not 1 <= self.first.low <= self.first.high <= problem.steps:
            raise EstimatorError(
                f"a first-order part of {self.first.high} steps in a chain of {problem.steps}",
                f"1 to {problem.steps} steps",
                "correct estimator.first_order_steps or sampling.steps",
            )

    def _check_half(self, problem: Problem) -> None:
        if self.half is None:
            return
        before = problem.steps - (self.first.high if self.first else 0)
        length, end = self.half.sub_chains.length, self.half.end
        if end.needs_reward_gradient:
            check_differentiable(problem, "the lookahead's first-order part")
        if end.looks_ahead and before == problem.steps:
            raise EstimatorError(
                "a lookahead at the end of sub-chains that reach the finished picture",
                "a first-order part, so that every sub-chain ends before the last step",
                "raise estimator.first_order_steps, or set estimator.sub_chain_end = antithetic",
            )
        if before == 0:
            raise EstimatorError(
                f"a half-order part where the first-order part has all {problem.steps} steps",
                "steps before the first-order part",
                "use estimator.name = full_bp, or lower estimator.first_order_steps",
            )
        steps = problem.limited(before)
        if length > len(steps):
            which = "come before the first-order part" + (" in the stages chosen" if problem.window else "")
            raise EstimatorError(
                f"sub-chains of {length} steps where {len(steps)} steps {which}",
                f"estimator.sub_chain_length of at most {len(steps)}",
                "shorten the sub-chain, lower estimator.first_order_steps or raise sampling.steps",
            )
        if not end.needs_noise:
            return
        if problem.eta == 0:
            raise EstimatorError(
                "η = 0 with a half-order part: a deterministic chain has no noise to take a likelihood ratio of",
                "sampling.eta above 0 (1 is best)",
                "set sampling.eta = 1, or choose an estimator without a half-order part",
            )
        silent = [step for step in self.half.sub_chains.ends(steps).tolist() if problem.scales[step] == 0]
        if silent:
            raise EstimatorError(
                f"a half-order part whose sub-chain ends at step {silent[-1]}, which adds no noise",
                "sub-chains that end at steps with noise (the last step of this schedule has none)",
                "use estimator.name = rlr with estimator.first_order_steps of 1 or more, "
                "or a schedule whose last step adds noise",
            )

    def state_dict(self) -> dict[str, Any]:
        state = {"baseline": self.baseline.state_dict()}
        if self.half:
            state |= {"sub_chains": self.half.sub_chains.state_dict(), "end": self.half.end.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.baseline.load_state_dict(state["baseline"])
        if self.half:
            self.half.sub_chains.load_state_dict(state["sub_chains"])
            self.half.end.load_state_dict(state["end"])
