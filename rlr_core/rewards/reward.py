"""A scoring function with a name, whose every call is checked."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlr_core.errors import RewardError


@dataclass(frozen=True)
class Reward:
    """Scores pictures; satisfies the estimators' `RewardFunction`.

    Attributes:
        name: shown to the user.
        differentiable: whether gradients flow from the scores to the images.
        function: (images, prompts) → scores. It gets a float32 copy of the images, which it may change;
            unless it is differentiable, the copy is on the CPU and no graph is recorded.
        origin: the Python file that it is from, for naming the line of an error.
        networks: what it computes with, where that may be moved to main memory while it is not used.
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
