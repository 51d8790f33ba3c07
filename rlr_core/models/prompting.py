"""A model's denoiser together with what turns prompts into the conditioning of a whole chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlr_core.chain import Conditioning, Denoiser, Level, Prediction, PromptSchedule
from rlr_core.errors import ConfigError
from rlr_core.models.model import Model

Encode = Callable[[Sequence[str], Sequence[str]], dict[str, Tensor]]
"""B prompts and B negative prompts → name → (B, …)."""


@dataclass(frozen=True)
class Prompted:
    """A guided denoiser, and its conditioning.

    Attributes:
        encode: what `denoiser` understands, of texts.
        mixes: whether what `encode` gives of two texts may be mixed; token numbers may not.
    """

    denoiser: Denoiser
    encode: Encode
    mixes: bool = True

    def conditioning(self, schedules: Sequence[PromptSchedule]) -> Conditioning:
        """That of B pictures at all steps of a chain. Raises `ConfigError` for a mixture of what cannot be mixed."""
        entries = [schedule.entries for schedule in schedules]
        count = max(len(distinct) for distinct, _ in entries)
        rows = [
            [distinct[min(number, len(distinct) - 1)] for distinct, _ in entries] for number in range(count)
        ]
        values = [self._entry(schedules, row) for row in rows]
        return Conditioning.staged(values, torch.stack([steps for _, steps in entries], 1))

    def _entry(
        self, schedules: Sequence[PromptSchedule], row: Sequence[tuple[int, float]]
    ) -> dict[str, Tensor]:
        """Each picture's conditioning in its own stage, mixed with its next stage by its own share: name → (B, …)."""
        own = self._texts(schedules, [stage for stage, _ in row])
        if not any(share for _, share in row):
            return own
        if not self.mixes:
            raise ConfigError(
                "stages that blend into each other, with a LoRA in the text encoder",
                "stages that meet at a step, or a LoRA in the denoiser alone",
                "set prompts.blend = 0, or lora.text_encoder = false",
            )
        following = self._texts(schedules, [stage + (share > 0) for stage, share in row])
        shares = torch.tensor([share for _, share in row])
        return {name: _mixed(value, following[name], shares) for name, value in own.items()}

    def _texts(self, schedules: Sequence[PromptSchedule], stages: Sequence[int]) -> dict[str, Tensor]:
        texts = [schedule.texts[stage] for schedule, stage in zip(schedules, stages, strict=True)]
        return self.encode([text.prompt for text in texts], [text.negative for text in texts])


def _mixed(own: Tensor, following: Tensor, shares: Tensor) -> Tensor:
    """(B, …), row by row; a share of 0 leaves its row as it is."""
    shares = shares.to(own).reshape(-1, *[1] * (own.dim() - 1))
    return torch.where(shares > 0, torch.lerp(own, following, shares), own)


def prompted(model: Model, guidance_scale: float, *, encode_anew: bool) -> Prompted:
    """The guided denoiser of `model`.

    Args:
        encode_anew: the text encoder is part of the denoiser, run at every evaluation: what it computes may change, and has a
            gradient. Without, a prompt is encoded once.

    Raises:
        ConfigError: the model's text encoders cannot be run at every evaluation.
    """
    denoiser = model.denoiser(guidance_scale)
    if not encode_anew:
        return Prompted(denoiser, model.encode)
    if model.tokens is None:
        raise ConfigError(
            f"a LoRA in the text encoder of {model.name}, which encodes texts out of reach",
            "a LoRA in the denoiser alone",
            "set lora.text_encoder = false",
        )
    return Prompted(EncodingDenoiser(denoiser, model.tokens.embed), model.tokens.tokenize, mixes=False)


@dataclass(frozen=True)
class EncodingDenoiser:
    """A denoiser whose conditioning is token numbers, and which encodes them itself."""

    denoiser: Denoiser
    embed: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        return self.denoiser(x, level, self.embed(conditioning))
