"""Videos for rewards of pictures: the frames are scored one by one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlr_core.errors import RewardError
from rlr_core.rewards.reward import FunctionReward, Reward, Scores, Wrap

REDUCTIONS = {
    "mean": lambda scores: scores.mean(1),
    "lowest": lambda scores: scores.amin(1),
}
"""Name → scores of the frames (B, F) → of the videos (B,); "lowest" counts the worst frame alone."""


class FrameReward(Reward):
    """Scores videos by a reward of pictures. A mix for videos is a mix of these.

    Args:
        inner: scores the frames of all videos in one call.
        reduction: what becomes of a video's frames, a key of `REDUCTIONS`; another raises `RewardError`.
    """

    def __init__(self, inner: FunctionReward, reduction: str = "mean"):
        if reduction not in REDUCTIONS:
            known = " or ".join(REDUCTIONS)
            raise RewardError(f"'{reduction}' of a video's frames", known, f"choose {known}")
        self.name = f"{inner.name} ({reduction} of the frames)"
        self.differentiable, self.networks = inner.differentiable, inner.networks
        self._inner, self._reduction = inner, reduction

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,), float32 on the videos' device, of videos (B, 3, F, H, W) in [0, 1]. Raises `RewardError`."""
        assert images.dim() == 5 and len(images) == len(prompts)
        count = images.shape[2]
        frames = images.transpose(1, 2).flatten(0, 1)
        repeated = [prompt for prompt in prompts for _ in range(count)]
        return REDUCTIONS[self._reduction](self._inner(frames, repeated).reshape(-1, count))

    @torch.no_grad()
    def measure(self, images: Tensor, prompts: Sequence[str]) -> Scores:
        return Scores(self(images, prompts))

    def wrapped(self, wrap: Wrap) -> FrameReward:
        return FrameReward(self._inner.wrapped(wrap), self._reduction)
