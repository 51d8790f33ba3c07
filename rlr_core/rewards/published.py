"""What a published reward is: a description, files, and what makes a scorer out of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from rlr_core.config import RewardConfig
from rlr_core.errors import RewardError
from rlr_core.rewards.download import download
from rlr_core.rewards.networks import Placement
from rlr_core.rewards.published_files import NO_WEIGHTS, NOWHERE, WeightsFile, absent, find, verify
from rlr_core.rewards.reward import FunctionReward
from rlr_core.storage import user_path

Scorer = Callable[[Tensor, list[str]], Tensor]
"""Images (B, 3, H, W) in [0, 1] on the network's device, and B prompts → (B,)."""


class Make(Protocol):
    """Builds a scorer from the published files, in the order of `Published.files`. Raises `RewardError`."""

    def __call__(self, paths: Sequence[Path], placement: Placement) -> Scorer: ...


@dataclass(frozen=True)
class Published:
    """A reward that others have published.

    Attributes:
        name: in a config.
        measures: in a few words.
        range: of its scores, in a few words.
        files: that it needs.
        make: a scorer from them.
    """

    name: str
    measures: str
    range: str
    files: tuple[WeightsFile, ...]
    make: Make


def load_published(published: Published, device: torch.device, settings: RewardConfig) -> FunctionReward:
    """The reward, ready to score. Raises `RewardError` for files that are missing, damaged or others."""
    paths = [_found(file, published.name, device, settings) for file in published.files]
    placement = Placement(device, _precision(settings.precision, device), settings.rerun)
    try:
        scorer = published.make(paths, placement)
    except ImportError as error:
        needed = "open_clip and transformers, for this reward"
        raise RewardError(f"{error.name} is not installed", needed, "pip install 'rlr[clip]'") from None
    groups = InGroups(published.name, scorer, device, settings.chunk)
    return FunctionReward(published.name, True, groups, networks=tuple(placement.networks))


def _found(file: WeightsFile, reward: str, device: torch.device, settings: RewardConfig) -> Path:
    """The verified file. On "meta" weights are not looked for: only their shapes count."""
    if device.type == "meta" and file.size > NO_WEIGHTS:
        return NOWHERE
    path = _require(file, reward, settings)
    verify(path, file)
    return path


def _require(file: WeightsFile, reward: str, settings: RewardConfig) -> Path:
    folder = user_path(settings.folder)
    path = find(file, folder)
    if path is None and settings.download:
        path = download(file, folder, reward)
    if path is None:
        raise absent(file, folder, reward)
    return path


def _precision(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda":
        return torch.float32
    with torch.cuda.device(device):  # what is asked next is asked of the current card
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class InGroups:
    """A scorer on its device, a few pictures at a time; a picture with NaN in it scores NaN and harms no other.

    Args:
        name: of the reward, for the warning.
        scorer: that scores.
        device: of the scorer.
        size: pictures at a time.
    """

    def __init__(self, name: str, scorer: Scorer, device: torch.device, size: int):
        self._name, self._scorer, self._device, self._size = name, scorer, device, size

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W), range [0, 1] → (B,)."""
        images = images.to(self._device)
        groups = [
            self._scorer(images[first : first + self._size], prompts[first : first + self._size])
            for first in range(0, len(images), self._size)
        ]
        scores, broken = torch.cat(groups), ~images.detach().isfinite().flatten(1).all(1)
        if broken.any():
            text = f"{int(broken.sum())} of {len(images)} pictures have pixels that are NaN or infinite"
            warnings.warn(f"{text}: '{self._name}' scores them NaN", stacklevel=2)
        return scores.masked_fill(broken, torch.nan)
