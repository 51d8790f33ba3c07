"""Lookahead: differentiate a short sub-chain anywhere, and let the denoiser's prediction stand for the rest of the chain.

    ∂θ R(decode(x̂_θ(x_{a+h-1}))),   a drawn from a window, x_a without gradient, its h-1 steps and the prediction with

This is the critic V of `critic.py` at the end of a sub-chain, its own θ included: h evaluations are differentiated. A
picture's chain ends where its sub-chain does, so that at h = 1 it costs (T-1)/2 + 3 evaluations in the mean, against T + 2K
of first order on the last K steps, and it learns about every step of the chain. It is biased by what V does not know of the
steps that it skips. With h = 1 and a in the last quarter it is ReFL (arXiv 2304.05977). A chain may be looked at more than
once: from k starts, evenly apart, and what was differentiated at one of them moves it on to the next.
Where V can be trusted depends on checkpoint, reward and T, and can be measured: `rlr_core.estimators.ranking`.

Gradients of single pictures are heavy-tailed, some tens of times longer than their median, and the mean of a few is mostly the
noise of the longest. With `unit` each chunk's gradient g counts as g/|g|: a mean of directions, biased, and far less noisy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Cost, initial_latents, moved_on, propagate
from rlr_core.chain.noise import derive_seed
from rlr_core.errors import EstimatorError
from rlr_core.estimators.base import Estimator, check_chunk, check_differentiable, my_chunks
from rlr_core.estimators.estimate import Estimate, GradientMean
from rlr_core.estimators.length import scaled_to_unit
from rlr_core.estimators.problem import Batch, Problem
from rlr_core.estimators.ranking import trusted
from rlr_core.estimators.starts import check_window, steps_of
from rlr_core.estimators.sub_chains import evenly_apart


@dataclass
class Lookahead(Estimator):
    """The gradient of the lookahead at the end of a random sub-chain.

    Attributes:
        length: h, network evaluations that are differentiated: h-1 steps and the prediction.
        window: the part of the chain that a is drawn from, as fractions of T (0 noise, 1 finished).
        unit: whether each chunk's gradient is scaled to length 1 (the mean's norm is then at most 1).
        chunk: samples that go through the network together, each at its own steps; with `unit`, 1 is best.
        looks: k, starts of each sample; its gradient is the mean over them.
        measured: whether, instead of the window, a is drawn from where predicted pictures can stand for finished ones: see
            `measures` and `learn`. Before that is known, and where it cannot be, the window counts.
    """

    length: int
    window: tuple[float, float] = (0.0, 1.0)
    unit: bool = False
    chunk: int = 1
    measured: bool = False
    looks: int = 1
    scores_predictions = True
    _asked: bool = False
    _starts_known: range | None = None
    _unreported: int = 0

    def measures(self, problem: Problem) -> bool:
        """Whether it wants to `learn` where to start; a problem that is limited to a window of steps says it."""
        return self.measured and not self._asked and problem.window is None

    def learn(self, tau: Tensor | None, evaluations: int) -> range | None:
        """Take in how well predictions rank, (T,) as of `ranking.agreement`, and what it cost; gives the steps that a is of."""
        self._asked, self._unreported = True, evaluations
        self._starts_known = None if tau is None else trusted(tau)
        return self._starts_known

    def __call__(self, problem: Problem, batch: Batch) -> Estimate:
        cost, mean, scores = Cost(forward=self._unreported), GradientMean(), []
        self._unreported = 0
        problem = problem.counted(cost)
        starts = self._starts(problem, batch)
        for samples in my_chunks(problem, batch, self.chunk):
            gradient, score = self._of(problem, batch, samples, starts[samples])
            mean.add(gradient)
            scores.append(score)
        collective = problem.collective
        return Estimate.of({"lookahead": mean}, collective.gather(torch.cat(scores)), cost, collective)

    def _of(self, problem: Problem, batch: Batch, samples: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient (P,) of a chunk from its starts (n, k), and the mean scores of what is predicted there (n,)."""
        chain, at = problem.chain(batch), torch.zeros_like(samples)
        x0 = initial_latents(chain)
        x, gradients, scores = x0[samples.to(x0.device)], [], []
        for start in starts.unbind(1):
            last = start + self.length - 1
            with torch.no_grad():
                x = propagate(chain, x, samples, at, start)
            with torch.enable_grad():
                predicted = chain.predict(propagate(chain, x, samples, start, last), last, samples)
                score = problem.score(predicted.sample, batch, samples)
                gradient = problem.gradient(score.mean())
            gradients.append(scaled_to_unit(gradient) if self.unit else gradient)
            scores.append(score.detach())
            if len(scores) < starts.shape[1]:
                x, at = moved_on(chain, predicted, last, samples), last + 1
        return torch.stack(gradients).mean(0), torch.stack(scores).mean(0)

    def _starts(self, problem: Problem, batch: Batch) -> Tensor:
        """a of each sample (B, k), rising; uniform over the window and stratified over the batch."""
        generator = torch.Generator().manual_seed(derive_seed(batch.seed, "plan"))
        low, high = self._window(problem)
        looks = min(self.looks, max((high - low) // self.length, 1))  # what was measured may be narrow
        return torch.tensor(evenly_apart(looks, range(low, high), len(batch), generator))

    def _window(self, problem: Problem) -> tuple[int, int]:
        """a is one of low … high-1, at least one of them and none beyond T-h.

        Where the problem is limited to a window of steps, that is the window, and all h steps are in it.
        """
        steps, limit = problem.steps, problem.window
        if limit:
            return limit.start, limit.stop - self.length + 1
        latest = steps - self.length
        if self._starts_known:
            first = min(self._starts_known.start, latest)
            return first, max(min(self._starts_known.stop, latest + 1), first + 1)
        return steps_of(self.window, steps, self.length)

    def check(self, problem: Problem, batch_size: int) -> None:
        check_chunk(problem, batch_size, self.chunk)
        check_differentiable(problem)
        steps = len(problem.limited(problem.steps))
        if self.length > steps:
            raise EstimatorError(
                f"a sub-chain of {self.length} steps in {'stages' if problem.window else 'a chain'} of {steps}",
                f"estimator.sub_chain_length of at most {steps}",
                "shorten the sub-chain or raise sampling.steps",
            )
        check_window(self.window, "sub-chains")
        low, high = self._window(problem)
        if self.looks * self.length > max(high - low, self.length):
            raise EstimatorError(
                f"{self.looks} sub-chains of {self.length} steps for each picture, from {high - low} starts",
                f"estimator.looks of at most {max((high - low) // self.length, 1)}",
                "lower it, widen estimator.starts_from and starts_until, or raise sampling.steps",
            )

    def coverage(self, problem: Problem) -> Tensor:
        """Only where the prediction is that of the last step is nothing skipped; with `unit`, not in its right length."""
        low, high = self._window(problem)
        covered = torch.zeros(problem.steps)
        if high == problem.steps - self.length + 1:
            covered[-self.length :] = 1 / (high - low)
        return covered

    def state_dict(self) -> dict[str, Any]:
        if not self._asked:
            return {}
        known = self._starts_known
        return {"starts": [known.start, known.stop] if known else [], "unreported": self._unreported}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._asked, self._unreported = bool(state), state.get("unreported", 0)
        starts = state.get("starts")
        self._starts_known = range(*starts) if starts else None
