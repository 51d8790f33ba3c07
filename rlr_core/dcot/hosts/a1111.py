r"""Prompt editing of A1111 and Forge: `[[coarse:mid:0.333332]:fine:0.666665]`.

Of N steps `[a:b:x]` shows b after step int(x·N), counted from 0 (`modules/prompt_parser.py`), so that x is written a little
below the boundary: with it, b begins at the first step that is at the boundary or beyond, as in training, whatever N and the
sampler. A first stage of one step alone has no such writing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlr_core.chain import Schedule
from rlr_core.dcot.stages import StagePrompts, StageSettings

BELOW = 1e-6
"""By which a place is written below its boundary: less than a step of any chain, and more than a float's rounding."""

_IN_EDITING = r"\\()\[\]:|"
"""Letters that mean something inside of it."""


def prompt_editing(prompts: StagePrompts, settings: StageSettings, schedule: Schedule) -> tuple[str, str]:
    """The positive and the negative prompt. Boundaries by noise are those of `schedule`, and of chains like it."""
    places = settings.boundaries_of(prompts).starts(schedule)
    negatives = prompts.negatives or (settings.negative,) * len(prompts.prompts)
    return _edited(prompts.prompts, places), _edited(negatives, places)


def _edited(texts: Sequence[str], places: Sequence[float]) -> str:
    if len(set(texts)) == 1:
        return escaped(texts[0])
    written, current = escaped(texts[0], _IN_EDITING), texts[0]
    for text, place in zip(texts[1:], places, strict=True):
        if text != current:
            written = f"[{written}:{escaped(text, _IN_EDITING)}:{max(place - BELOW, 0):.6f}]"
        current = text
    return written


def escaped(text: str, special: str = r"\\()\[\]") -> str:
    """Text whose brackets are letters."""
    return re.sub(f"([{special}])", r"\\\1", text)
