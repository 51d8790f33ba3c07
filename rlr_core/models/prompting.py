"""A model's denoiser together with what turns prompts into the conditioning of a whole chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from rlr_core.chain import Conditioning, Denoiser, Level, Prediction, Schedule
from rlr_core.errors import ConfigError
from rlr_core.models.model import Model


@dataclass(frozen=True)
class Prompted:
    """A guided denoiser, and its conditioning.

    Attributes:
        encode: B prompts and the negative prompt → name → (B, …), which `denoiser` understands.
        negative: the negative prompt.
    """

    denoiser: Denoiser
    encode: Callable[[Sequence[str], str], dict[str, Tensor]]
    negative: str = ""

    def conditioning(self, prompts: Sequence[str], schedule: Schedule) -> Conditioning:
        """That of B prompts at all steps of a chain with the levels of `schedule`."""
        return Conditioning.constant(self.encode(prompts, self.negative), schedule.steps)


def prompted(model: Model, guidance_scale: float, negative: str = "", *, encode_anew: bool) -> Prompted:
    """The guided denoiser of `model`.

    Args:
        encode_anew: the text encoder is part of the denoiser, run at every evaluation: what it computes may change, and has a
            gradient. Without, a prompt is encoded once.

    Raises:
        ConfigError: the model's text encoders cannot be run at every evaluation.
    """
    denoiser = model.denoiser(guidance_scale)
    if not encode_anew:
        return Prompted(denoiser, model.encode, negative)
    if model.tokens is None:
        raise ConfigError(
            f"a LoRA in the text encoder of {model.name}, which encodes texts out of reach",
            "a LoRA in the denoiser alone",
            "set lora.text_encoder = false",
        )
    return Prompted(EncodingDenoiser(denoiser, model.tokens.embed), model.tokens.tokenize, negative)


@dataclass(frozen=True)
class EncodingDenoiser:
    """A denoiser whose conditioning is token numbers, and which encodes them itself."""

    denoiser: Denoiser
    embed: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        return self.denoiser(x, level, self.embed(conditioning))
