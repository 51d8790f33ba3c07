"""Texts of several lengths in one table: repeated to one length, or filled up and cut again."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

LENGTH = "_length"
"""After a name: how many of its vectors are the text's own, where those of others are longer."""
Table = dict[str, dict[str, Tensor]]
"""Text → name → (1, …)."""


def equally_long(table: Table) -> Table:
    """Texts repeated to one length, as ComfyUI does: attention sees the same."""
    length = math.lcm(*(entry["cross_attn"].shape[1] for entry in table.values()))
    return {
        text: {
            **entry,
            "cross_attn": entry["cross_attn"].repeat(1, length // entry["cross_attn"].shape[1], 1),
        }
        for text, entry in table.items()
    }


def filled_up(table: Table) -> Table:
    """Texts filled up with zeros to the longest, beside their lengths."""
    longest: dict[str, int] = {}
    for name, value in (item for entry in table.values() for item in entry.items()):
        if name != "pooled_output":
            longest[name] = max(longest.get(name, 0), value.shape[1])
    return {text: {**entry, **_filled(entry, longest)} for text, entry in table.items()}


def _filled(entry: Mapping[str, Tensor], longest: Mapping[str, int]) -> dict[str, Tensor]:
    filled: dict[str, Tensor] = {}
    for name in longest.keys() & entry.keys():
        value = entry[name]
        after = [0] * (2 * (value.dim() - 2)) + [0, longest[name] - value.shape[1]]
        filled[name], filled[name + LENGTH] = functional.pad(value, after), torch.tensor([value.shape[1]])
    return filled


def whole(row: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of one text (1, …) in their own length; those without a length as they are."""
    own = {name: value for name, value in row.items() if not name.endswith(LENGTH)}
    return {
        name: value[:, : int(row[name + LENGTH])] if name + LENGTH in row else value
        for name, value in own.items()
    }
