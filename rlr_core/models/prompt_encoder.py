"""Prompts to text embeddings, each distinct text once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class PromptEncoder:
    """CLIP's text model as Stable Diffusion uses it: the last hidden states, padded to the full length.

    Texts are encoded one at a time, so that none depends on its neighbours, and kept on the CPU.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any):
        self._tokenizer, self._text_encoder = tokenizer, text_encoder
        self._known: dict[str, Tensor] = {}

    @property
    def length(self) -> int:
        """L, tokens of a prompt, start and end included."""
        return min(self._tokenizer.model_max_length, self._text_encoder.config.max_position_embeddings)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(B, L, D) on the text model's device and in its dtype."""
        for text in texts:
            if text not in self._known:
                self._known[text] = self._encode(text).cpu()
        return torch.stack([self._known[text] for text in texts]).to(self._text_encoder.device)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, 2, L) whole numbers on the text model's device: tokens, and where there are any."""
        for text in dict.fromkeys(texts):
            self._warn_if_truncated(text)
        tokens = self._tokenizer(
            list(texts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        return torch.stack([tokens.input_ids, tokens.attention_mask], 1).to(self._text_encoder.device)

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, 2, L) → (B, L, D), differentiable; equal rows are encoded once."""
        distinct, rows = tokens.unique(dim=0, return_inverse=True)
        masked = getattr(self._text_encoder.config, "use_attention_mask", False)
        mask = distinct[:, 1] if masked else None
        return self._text_encoder(distinct[:, 0], attention_mask=mask)[0][rows]

    @torch.no_grad()
    def _encode(self, text: str) -> Tensor:
        """(L, D)."""
        return self.embed(self.tokenize([text]))[0]

    def _warn_if_truncated(self, text: str) -> None:
        tokens = self._tokenizer(text, verbose=False).input_ids
        if len(tokens) > self.length:
            lost = self._tokenizer.decode(tokens[self.length - 1 : -1]).strip()
            message = f"a prompt is longer than {self.length - 2} tokens: '{lost}' is lost of '{text}'"
            warnings.warn(message, stacklevel=7)
