"""What a run asks of a reward, and the simplest one: a scoring function with a name, whose every call is checked."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlr_core.errors import RewardError

Wrap = Callable[[Sequence[Any], Callable[..., Any]], Callable[..., Any]]
"""Networks, and a function that computes with them → what is called instead of it."""
Sum = Callable[[Tensor], Tensor]
"""A tensor of this process → its sum, element by element, over all processes that share a batch."""


def alone(tensor: Tensor) -> Tensor:
    """The sum over one process."""
    return tensor


@dataclass(frozen=True)
class Scores:
    """What a reward says of B pictures.

    Attributes:
        total: (B,).
        parts: each part's own scores, (B,), of a reward that is made of several.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Reward(ABC):
    """Scores pictures; satisfies the estimators' `RewardFunction`.

    Training calls it; what only looks at pictures asks `measure`. A reward may learn from the calls of training, as a mix
    does its scale: what it was shown since the last `settle` counts from the next one on. Measuring teaches it nothing.
    Most rewards learn nothing, and leave the methods below `wrapped` as they are.

    Attributes:
        name: shown to the user.
        differentiable: whether gradients flow from the scores to the images.
        networks: what it computes with, where that may be moved to main memory while it is not used.
    """

    name: str
    differentiable: bool
    networks: tuple[Any, ...]

    @abstractmethod
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,), float32 on the images' device, of images (B, 3, H, W) in [0, 1], for training."""

    @abstractmethod
    def measure(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        """The same for looking: without a graph, on a scale that never moves, and nothing is learned."""

    @abstractmethod
    def wrapped(self, wrap: Wrap) -> Reward:
        """The same reward with every function that it computes with wrapped."""

    @property
    def calibrated(self) -> bool:
        """Whether it can do without `calibrate`."""
        return True

    def calibrate(self, parts: Mapping[str, Tensor]) -> None:  # noqa: B027  (most have no scale)
        """Take the scale that is lacking from the parts' scores (N,) at the start. Raises `RewardError`."""

    def settle(self, total: Sum = alone) -> dict[str, float]:
        """An iteration is over. Learn from what was scored in it; returns the mean of each part's own scores.

        Args:
            total: for processes that share a batch, all of which call this and then have learned the same.
        """
        return {}

    def forget(self) -> None:  # noqa: B027  (most learn nothing)
        """An iteration was interrupted: what was scored since the last `settle` is not learned from."""

    def state_dict(self) -> dict[str, Any]:
        """What was learned and settled: tables, numbers and texts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        assert not state


@dataclass(frozen=True)
class FunctionReward(Reward):
    """A function of pictures and prompts.

    Attributes:
        function: (images, prompts) → scores. It gets a float32 copy of the images, which it may change;
            unless it is differentiable, the copy is on the CPU and no graph is recorded.
        origin: the Python file that it is from, for naming the line of an error.
    """

    name: str
    differentiable: bool
    function: Callable[[Tensor, list[str]], Any]
    origin: str = ""
    networks: tuple[Any, ...] = ()

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,), float32 on the images' device, of images (B, 3, H, W) in [0, 1].

        NaN and infinity are passed on. Raises `RewardError` where the function raises, or returns anything
        but one real number for each picture.
        """
        assert images.dim() == 4 and len(images) == len(prompts)
        if not len(images):
            raise RewardError(
                f"the reward '{self.name}' got no pictures", "at least one", "give it a picture"
            )
        if self.differentiable:
            scores = self._run(images.float().clone(), prompts)
        else:
            with torch.no_grad():
                scores = self._run(images.detach().to("cpu", torch.float32, copy=True), prompts)
        scores = self._as_tensor(scores, len(prompts)).to(images.device)
        self._check_graph(scores, images)
        return scores

    @torch.no_grad()
    def measure(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        return Scores(self(images, prompts))

    def wrapped(self, wrap: Wrap) -> FunctionReward:
        return replace(self, function=wrap(self.networks, self.function))

    def _run(self, images: Tensor, prompts: Sequence[str]) -> Any:
        try:
            return self.function(images, list(prompts))
        except Exception as error:
            raise RewardError(
                f"the reward '{self.name}' raised {type(error).__name__}: {error}{place(error, self.origin)}",
                "one score for each picture",
                "correct the function; it gets images (B, 3, H, W) in [0, 1] and a list of B prompts",
            ) from error

    def _as_tensor(self, scores: Any, count: int) -> Tensor:
        tensor = _number_tensor(scores)
        if tensor is None or tuple(tensor.shape) != (count,):
            raise RewardError(
                f"the reward '{self.name}' returned {_describe(scores)}",
                f"{count} real numbers, one for each picture: a tensor or array ({count},), or a list",
                "return scores.squeeze(1) for shape (B, 1); one number for each picture, not their mean",
            )
        return tensor.float()

    def _check_graph(self, scores: Tensor, images: Tensor) -> None:
        wanted = self.differentiable and images.requires_grad and torch.is_grad_enabled()
        if wanted and not scores.requires_grad:
            raise RewardError(
                f"the reward '{self.name}' says that it is differentiable, but its scores have no gradient",
                "scores computed from the images by torch operations alone",
                "remove detach(), no_grad() and numpy from the function, or its `differentiable = True`",
            )


def _number_tensor(scores: Any) -> Tensor | None:
    """Real numbers as a tensor; None for anything else."""
    if isinstance(scores, list | tuple):
        has_tensors = any(isinstance(score, Tensor) for score in scores)
        scores = _stacked(scores) if has_tensors else _array(scores)
    if isinstance(scores, np.ndarray):
        scores = torch.from_numpy(scores.copy()) if scores.dtype.kind in "iuf" else None
    if not isinstance(scores, Tensor) or scores.is_complex() or scores.dtype == torch.bool:
        return None
    return scores


def _stacked(scores: Sequence[Any]) -> Tensor | None:
    """Scalar tensors end to end, in their graph."""
    if all(isinstance(score, Tensor) and score.dim() == 0 for score in scores):
        return torch.stack(list(scores))
    return None


def _array(scores: Sequence[Any]) -> Any:
    try:
        return np.array(scores)
    except ValueError:  # lists of different lengths
        return None


def _describe(scores: Any) -> str:
    shape = getattr(scores, "shape", None)
    if shape is not None:
        return f"a {type(scores).__name__} of shape {tuple(shape)} and type {scores.dtype}"
    if isinstance(scores, list | tuple):
        kinds = sorted({type(score).__name__ for score in scores})
        return f"a {type(scores).__name__} of {len(scores)} ({', '.join(kinds)})"
    return f"{scores!r} ({type(scores).__name__})"


def place(error: BaseException, origin: str) -> str:
    """at file:line: the innermost line in `origin`, or else the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == origin] or frames
    return f" (at {own[-1].filename}:{own[-1].lineno})"
