"""The denoiser's text conditioning, out of one text model (Stable Diffusion 1.x, 2.x) or two (XL)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from rlr_core.models.stable_diffusion.prompt_encoder import Encoded, PromptEncoder

NEGATIVE = "negative_"


@dataclass(frozen=True)
class TextConditioning:
    """Prompts to conditioning tensors.

    "text" is (B, L, D), the states of all text models side by side, and "pooled" (B, P), where there is a last one with a
    projection; the same names with "negative_" belong to the negative prompt.

    Attributes:
        encoders: one or more.
        zero_negative: an empty negative prompt is zeros instead of an encoded empty text.
    """

    encoders: Sequence[PromptEncoder]
    zero_negative: bool = False

    @property
    def networks(self) -> dict[str, Any]:
        """The text models, named as in a diffusers folder."""
        names = ("text_encoder", "text_encoder_2")
        return {name: encoder.network for name, encoder in zip(names, self.encoders, strict=False)}

    def encode(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
        """Without a gradient; a text is encoded once and remembered."""
        positive, against = self._encoded(prompts), self._encoded(negatives)
        counts = self._counts(negatives)
        against = {
            name: torch.where(_as_rows(counts, value) > 0, value, torch.zeros_like(value))
            for name, value in against.items()
        }
        return {**positive, **{NEGATIVE + name: value for name, value in against.items()}}

    def tokenize(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
        """ "text_1", "text_2" … and the same of the negative prompts, each (B, 2, L) whole numbers, for `embed`."""
        tokens = {f"text_{k + 1}": encoder.tokenize(prompts) for k, encoder in enumerate(self.encoders)}
        for k, encoder in enumerate(self.encoders):
            against = encoder.tokenize(negatives)
            # A text without any token stands for zeros.
            against[:, 1] *= _as_rows(self._counts(negatives), against[:, 1])
            tokens[f"{NEGATIVE}text_{k + 1}"] = against
        return tokens

    def embed(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `encode` gives, of what `tokenize` gave, differentiable in the text models' parameters."""
        conditioning = {}
        for prefix in ("", NEGATIVE):
            rows = [tokens[f"{prefix}text_{k + 1}"] for k in range(len(self.encoders))]
            encoded = _joined([encoder.embed(row) for encoder, row in zip(self.encoders, rows, strict=True)])
            there = rows[0][:, 1].any(-1)
            conditioning |= {prefix + name: value * _as_rows(there, value) for name, value in encoded.items()}
        return conditioning

    def _encoded(self, texts: Sequence[str]) -> dict[str, Tensor]:
        return _joined(list(map(PromptEncoder.__call__, self.encoders, repeat(texts))))

    def _counts(self, negatives: Sequence[str]) -> Tensor:
        """(B,) whether each negative prompt is encoded, and is not zeros."""
        return torch.tensor([not (self.zero_negative and negative == "") for negative in negatives])


def _as_rows(flags: Tensor, like: Tensor) -> Tensor:
    """`flags` (B,) as 0 and 1, shaped (B, 1, …), on the device and in the dtype of `like` (B, …)."""
    return flags.to(like).reshape(-1, *[1] * (like.dim() - 1))


def _joined(parts: Sequence[Encoded]) -> dict[str, Tensor]:
    joined = {"text": torch.cat([part.states for part in parts], -1)}
    return joined if parts[-1].pooled is None else {**joined, "pooled": parts[-1].pooled}
