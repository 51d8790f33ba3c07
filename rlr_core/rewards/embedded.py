"""The rewards that are shipped with the project; open_clip and the weights are loaded when one is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rlr_core.embedded import REWARD, SCORER
from rlr_core.errors import RewardError
from rlr_core.rewards.preprocessing import CLIP_MEAN, CLIP_STD
from rlr_core.rewards.reward import FunctionReward


def clip_reward(device: torch.device) -> FunctionReward:
    """ "embedded": the cosine between picture and prompt in a small open_clip model; differentiable."""
    with _loading(REWARD):
        from rlr_core.embedded.clip_reward import load_clip

        model, tokenize = load_clip(REWARD)
    model.to(device).requires_grad_(False)
    return FunctionReward("embedded", True, ClipScore(model, tokenize, device), networks=(model,))


def held_out_scorer(device: torch.device) -> FunctionReward:
    """ "embedded-held-out": a classifier that only watches, and therefore gives no gradient."""
    with _loading(SCORER):
        from rlr_core.embedded.scorer import load_scorer

        scorer = load_scorer(SCORER)
    return FunctionReward("embedded-held-out", False, _HeldOut(scorer.to(device), device), networks=(scorer,))


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """Say what is missing: a library, or the files. What networks draw for their first weights leaves no trace."""
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    except ImportError as error:
        do = "pip install 'rlr[clip]'"
        raise RewardError(f"{error.name} is not installed", "open_clip, for this reward", do) from None
    except OSError as error:
        do = "install the project again"
        raise RewardError(f"{folder} cannot be read ({error})", "the reward's files", do) from None


class _HeldOut:
    """A scorer's `score`, on its own device."""

    def __init__(self, scorer: Any, device: torch.device):
        self._scorer, self._device = scorer, device

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        return self._scorer.score(images.to(self._device), prompts)


class ClipScore:
    """The cosine between a picture's and a prompt's embedding, in [-1, 1].

    CLIPScore (arXiv 2104.08718, eq. 1) without its factor and without its cut at 0.

    Pictures of another size than the model's are resized by an antialiased bicubic filter, in float32.
    """

    def __init__(self, model: Any, tokenize: Callable[[list[str]], Tensor], device: torch.device):
        self._model, self._tokenize, self._device = model, tokenize, device
        self._known: dict[str, Tensor] = {}
        facts = getattr(model.visual, "preprocess_cfg", None) or {}
        self._mean = torch.tensor(facts.get("mean", CLIP_MEAN), device=device).reshape(1, 3, 1, 1)
        self._std = torch.tensor(facts.get("std", CLIP_STD), device=device).reshape(1, 3, 1, 1)

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images (B, 3, H, W), range [0, 1] → (B,)."""
        texts = torch.stack([self._text(prompt) for prompt in prompts])
        pictures = self._model.encode_image(self._prepare(images.to(self._device)), normalize=True)
        return (pictures * texts).sum(1)

    def _prepare(self, images: Tensor) -> Tensor:
        size = self._model.visual.image_size
        height_width = (size, size) if isinstance(size, int) else tuple(size)
        if images.shape[2:] != height_width:
            images = functional.interpolate(images, height_width, mode="bicubic", antialias=True).clamp(0, 1)
        return (images - self._mean) / self._std

    @torch.no_grad()
    def _text(self, prompt: str) -> Tensor:
        """(D,), unit length; each distinct prompt is encoded once."""
        if prompt not in self._known:
            tokens = self._tokenize([prompt]).to(self._device)
            self._known[prompt] = self._model.encode_text(tokens, normalize=True)[0]
        return self._known[prompt]
