"""A MODEL behind the denoiser protocol, guided by ComfyUI's own sampling function.

Whatever KSampler honours in a MODEL (RescaleCFG, PAG, patches of other nodes) is thereby what is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Level, Prediction
from rlr_core.chain.denoiser import expand

from .host import process_conds, sampling_function
from .levels import is_flow
from .text_lengths import whole

NEGATIVE = "negative_"


@dataclass(frozen=True)
class HostDenoiser:
    """Guided; its conditioning is "cross_attn" (B, L, D) and what else CLIP gives, each as "negative_…", too.

    Attributes:
        patcher: a MODEL, loaded and with its `pre_run` done.
        scale: of the guidance, CFG.
        one_by_one: whether each sample is asked for alone, with texts of their own length.
    """

    patcher: Any
    scale: float
    one_by_one: bool = False

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        """Predict from `x` (B, …)."""
        flow = is_flow(self.patcher.get_model_object("model_sampling"))
        scaled = x if flow else x / expand(level.alpha, x)
        sample = torch.zeros_like(x)
        for rows in self._calls(level.time):
            here = {name: value[rows] for name, value in conditioning.items()}
            there = rows.to(x.device)
            sample = sample.index_copy(0, there, self._denoised(scaled[there], level.time[rows], here))
        return Prediction.from_sample(x, sample, level)

    def _calls(self, sigma: Tensor) -> Iterator[Tensor]:
        """The rows of each call: all, unless another node has changed how the MODEL samples.

        Such changes look at the first sample's σ, as if it were that of all.
        """
        if self.one_by_one:
            yield from torch.arange(len(sigma)).split(1)
        elif _is_plain(self.patcher.model_options):
            yield torch.arange(len(sigma))
        else:
            for value in sigma.unique():
                yield (sigma == value).nonzero().squeeze(1)

    def _denoised(self, x: Tensor, sigma: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """x̂ (n, …) of ComfyUI's latents (n, …) at ComfyUI's σ (n,)."""
        inner = self.patcher.model
        negative = {k[len(NEGATIVE) :]: v for k, v in conditioning.items() if k.startswith(NEGATIVE)}
        positive = {k: v for k, v in conditioning.items() if not k.startswith(NEGATIVE)}
        both = {"positive": [_entry(positive)], "negative": [_entry(negative)]}
        conds = process_conds(inner, x.detach(), both, x.device)
        options, time = self.patcher.model_options, sigma.to(x)
        return sampling_function(
            inner, x, time, conds["negative"], conds["positive"], self.scale, model_options=options
        ).to(x.dtype)


def _entry(conditioning: Mapping[str, Tensor]) -> dict[str, Any]:
    """As ComfyUI has one entry of a CONDITIONING."""
    return {**whole(conditioning), "model_conds": {}, "uuid": None}


def _is_plain(options: Mapping[str, Any]) -> bool:
    """Whether no node has put anything into a MODEL's options."""
    return not any(options.values())
