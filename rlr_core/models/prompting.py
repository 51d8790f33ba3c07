"""A model's denoiser together with what turns prompts into its conditioning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from rlr_core.chain import Denoiser, Level, Prediction
from rlr_core.models.model import Model


class Prompted(NamedTuple):
    """`encode` (prompts, negative prompt) makes the conditioning that `denoiser` understands."""

    denoiser: Denoiser
    encode: Callable[[Sequence[str], str], dict[str, Tensor]]


def prompted(model: Model, guidance_scale: float, *, encode_anew: bool) -> Prompted:
    """The guided denoiser of `model`.

    Args:
        encode_anew: the text encoder is part of the denoiser, run at every evaluation: what it computes may change, and has a
            gradient. Without, a prompt is encoded once.
    """
    denoiser = model.denoiser(guidance_scale)
    if encode_anew:
        return Prompted(EncodingDenoiser(denoiser, model.embed), model.tokenize)
    return Prompted(denoiser, model.encode)


@dataclass(frozen=True)
class EncodingDenoiser:
    """A denoiser whose conditioning is token numbers, and which encodes them itself."""

    denoiser: Denoiser
    embed: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        return self.denoiser(x, level, self.embed(conditioning))
