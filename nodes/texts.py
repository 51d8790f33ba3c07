"""What ComfyUI's CLIP makes of texts, all before training begins: encoding may move networks, which training must not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlr_core.errors import CheckpointError

from .text_lengths import equally_long, filled_up

NAMES = {"cross_attn", "pooled_output", "attention_mask"}
"""What a denoiser is given of a text."""
HOOKED = {"hooks", "clip_start_percent", "clip_end_percent"}
"""What a CLIP with hooks gives besides."""


class Texts:
    """A table of encoded texts.

    Args:
        clip: a CLIP.
        texts: all that will be asked for.
        own_length: whether the network reads each in its own length; else they are repeated, as ComfyUI does.
    """

    def __init__(self, clip: Any, texts: Iterable[str], *, own_length: bool = False):
        encoded = {text: _encoded(clip, text) for text in texts}
        self._table = (filled_up if own_length else equally_long)(encoded)

    @property
    def width(self) -> int:
        """Numbers of each vector that the denoiser attends to."""
        return next(iter(self._table.values()))["cross_attn"].shape[-1]

    @property
    def all(self) -> dict[str, Tensor]:
        """Every text's values, by name and number."""
        return {f"{k} {name}": v for k, each in enumerate(self._table.values()) for name, v in each.items()}

    def rows(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Name → (B, …), on the CPU."""
        entries = [self._table[text] for text in texts]
        return {name: torch.cat([entry[name] for entry in entries]) for name in entries[0]}


def _encoded(clip: Any, text: str) -> dict[str, Tensor]:
    found = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    if len(found) != 1 or found[0][1].keys() & HOOKED:
        raise CheckpointError(
            "a CLIP with hooks, by which it changes along the chain", "one without", "take the hooks off"
        )
    (text_tensor, others) = found[0]
    values = {"cross_attn": text_tensor, **{k: v for k, v in others.items() if v is not None}}
    if strange := sorted(values.keys() - NAMES):
        raise CheckpointError(
            f"a CLIP that gives {', '.join(strange)} for a text",
            f"one that gives no more than {', '.join(sorted(NAMES))}",
            "choose the CLIP of the checkpoint",
        )
    with torch.inference_mode(False):
        return {name: _kept(value) for name, value in values.items()}


def _kept(value: Tensor) -> Tensor:
    """In float32; a mask stays whole numbers, which networks count by, and tell from a mask that is added."""
    return value.to("cpu", torch.float32 if value.is_floating_point() else value.dtype, copy=True).clone()
