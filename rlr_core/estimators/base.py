"""The one signature of all gradient estimators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from rlr_core.errors import EstimatorError, GradientError
from rlr_core.estimators.estimate import Estimate
from rlr_core.estimators.problem import Batch, Problem


class Estimator(ABC):
    """An estimate of ∇J(θ) from a batch: `estimator(problem, batch) -> Estimate`.

    An estimator may learn from earlier calls (baselines, coefficients, probabilities); what it has learned is in `state_dict`.
    """

    batch_reuse: int = 1
    """How many calls in a row want the same batch."""
    scores_predictions: bool = False
    """Whether its rewards are of pictures that the denoiser predicts half-way, and not of finished ones."""

    @abstractmethod
    def __call__(self, problem: Problem, batch: Batch) -> Estimate:
        """The estimate. Call `check` first; a batch is divided into chunks of equal size."""

    @abstractmethod
    def check(self, problem: Problem, batch_size: int) -> None:
        """Raise an `EstimatorError` where the estimator cannot work on this problem."""

    @abstractmethod
    def coverage(self, problem: Problem) -> Tensor:
        """(T,) how often, in expectation, the gradient g_i of each step is in the estimate: 1 everywhere is unbiased."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings that a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        assert not state


def chunks(batch_size: int, chunk: int) -> list[Tensor]:
    """Sample indices 0 … B-1 in chunks, each (chunk,)."""
    return list(torch.arange(batch_size).split(chunk))


def my_chunks(problem: Problem, batch: Batch, chunk: int) -> list[Tensor]:
    """Of these the ones that this process has: whole chunks, since a chunk's samples may share a perturbation."""
    every = chunks(len(batch), chunk)
    return [every[number] for number in problem.collective.mine(len(every))]


def check_chunk(problem: Problem, batch_size: int, chunk: int) -> None:
    """A chunk has to divide the batch, since all chunks weigh the same, and no process may be without one."""
    if chunk < 1 or batch_size % chunk:
        raise EstimatorError(
            f"a batch of {batch_size} in chunks of {chunk}",
            "a chunk size that divides the batch size",
            f"set estimator.chunk to a divisor of {batch_size}",
        )
    if batch_size // chunk < problem.collective.size:
        raise EstimatorError(
            f"a batch of {batch_size} in chunks of {chunk} for {problem.collective.size} processes",
            "at least one chunk for each process",
            "raise training.batch_size, lower estimator.chunk, or start fewer processes",
        )


def check_differentiable(problem: Problem, part: str = "the first-order part") -> None:
    """What back-propagates the reward needs one that has a gradient."""
    if not problem.reward.differentiable:
        raise GradientError(
            f"{part} with the reward '{problem.reward.name}', which has no gradient",
            "a differentiable reward, or an estimator that needs no gradient of it",
            "start from the preset for such rewards, --preset black-box; or use estimator.name = half, reinforce, ddpo or "
            "zeroth, or rlr with estimator.first_order_steps = 0 and estimator.sub_chain_end = antithetic",
        )
