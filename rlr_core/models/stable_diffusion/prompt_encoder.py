"""Prompts to text embeddings, each distinct text once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlr_core.safetensors_header import shown

MOST = 1000
"""Letters of a prompt that a warning repeats."""


class Encoded(NamedTuple):
    """What a text model makes of B texts.

    Attributes:
        states: (B, L, D), hidden states.
        pooled: (B, P), the projection of the end of the text; None from a model without one.
    """

    states: Tensor
    pooled: Tensor | None


class PromptEncoder:
    """CLIP's text model as Stable Diffusion uses it: hidden states of one of its last layers, padded to the full length.

    Texts are encoded one at a time, so that none depends on its neighbours, and kept on the CPU.

    Args:
        tokenizer: CLIP's.
        text_encoder: a `CLIPTextModel` or `CLIPTextModelWithProjection`.
        layer: whose states are taken, counted from the end; 1 is the last.
        normalised: whether the final layer norm acts on them (Stable Diffusion 1.x and 2.x), or not (XL).
        pad: the number that fills up short texts; None is the tokenizer's own.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        *,
        layer: int = 1,
        normalised: bool = True,
        pad: int | None = None,
    ):
        self._tokenizer, self._text_encoder = tokenizer, text_encoder
        self._layer, self._normalised, self._pad = layer, normalised, pad
        self._known: dict[str, Encoded] = {}

    @property
    def network(self) -> Any:
        """The text model."""
        return self._text_encoder

    @property
    def length(self) -> int:
        """L, tokens of a prompt, start and end included."""
        return min(self._tokenizer.model_max_length, self._text_encoder.config.max_position_embeddings)

    def __call__(self, texts: Sequence[str]) -> Encoded:
        """Without a gradient, on the text model's device and in its dtype."""
        for text in texts:
            if text not in self._known:
                self._known[text] = self._encode(text)
        rows = zip(*(self._known[text] for text in texts), strict=True)
        return Encoded(*(self._together(row) for row in rows))

    def _together(self, rows: tuple[Any, ...]) -> Any:
        return None if rows[0] is None else torch.cat(rows).to(self._text_encoder.device)

    @torch.no_grad()
    def _encode(self, text: str) -> Encoded:
        """Of one text, on the CPU."""
        states, pooled = self.embed(self.tokenize([text]))
        return Encoded(states.cpu(), None if pooled is None else pooled.cpu())

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, 2, L) whole numbers on the text model's device: tokens, and where there are any.

        Warns where a text is too long, naming the words that are lost.
        """
        for text in dict.fromkeys(texts):
            self._warn_if_truncated(text)
        tokens = self._tokenizer(
            list(texts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        numbers, there = tokens.input_ids, tokens.attention_mask
        if self._pad is not None:
            numbers = numbers.masked_fill(there == 0, self._pad)
        return torch.stack([numbers, there], 1).to(self._text_encoder.device)

    def embed(self, tokens: Tensor) -> Encoded:
        """Of tokens (B, 2, L); differentiable. Equal rows are encoded once."""
        distinct, rows = tokens.unique(dim=0, return_inverse=True)
        masked = getattr(self._text_encoder.config, "use_attention_mask", False)
        output = self._text_encoder(
            distinct[:, 0], attention_mask=distinct[:, 1] if masked else None, output_hidden_states=True
        )
        pooled = getattr(output, "text_embeds", None)
        return Encoded(self._states(output)[rows], None if pooled is None else pooled[rows])

    def _states(self, output: Any) -> Tensor:
        """Of the layer that was asked for. The model itself normalises only its last one."""
        if not self._normalised:
            return output.hidden_states[-self._layer]
        if self._layer == 1:
            return output.last_hidden_state
        inner = getattr(self._text_encoder, "text_model", self._text_encoder)
        return inner.final_layer_norm(output.hidden_states[-self._layer])

    def _warn_if_truncated(self, text: str) -> None:
        tokens = self._tokenizer(text, verbose=False).input_ids
        if len(tokens) > self.length:
            lost = self._tokenizer.decode(tokens[self.length - 1 : -1]).strip()
            what = f"'{shown(lost, MOST)}' is lost of '{shown(text, MOST)}'"
            told = f"a prompt of {len(tokens) - 2} tokens is longer than {self.length - 2} tokens: {what}"
            warnings.warn(told, stacklevel=9)
