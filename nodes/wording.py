"""What the core says of settings, in the words of nodes: where to turn them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from rlr_core.errors import GradientError, RLRError

from .inputs import ADVANCED, LEFT, TRAINING
from .names import TITLES

ELSEWHERE = {"RLREstimatorAdvanced": {**ADVANCED, "name": "estimator.name"}, "RLRSettings": LEFT}
"""Node → its inputs, by setting."""
INPUTS = {
    **{
        setting: f"{given}{{}} of {TITLES[node]}"
        for node, names in ELSEWHERE.items()
        for given, setting in names.items()
    },
    **{setting: f"{given}{{}}" for given, setting in TRAINING.items()},
}
"""Setting → the input that it is, with room for " = value"."""
SETTING = re.compile(r"(?<!\w)(?:--set )?([a-z]+\.[a-z_0-9]+)((?: ?= ?[^\s,;)]+)?)")
PRESET = re.compile(r"--preset ([\w-]+)")


def in_nodes_words(text: str) -> str:
    """Settings that are inputs by their names there; all else as it is."""
    text = PRESET.sub(r"RLR: estimator with the preset \1", text)
    return SETTING.sub(
        lambda found: INPUTS[found[1]].format(found[2]) if found[1] in INPUTS else found[0], text
    )


@contextmanager
def told_of_nodes() -> Iterator[None]:
    """Raise what the core raises, in the words of nodes."""
    try:
        yield
    except RLRError as error:
        told = tuple(map(in_nodes_words, error.parts))
        if isinstance(error, GradientError):  # the core's own advice is longer
            told = *told[:2], "wire RLR: estimator with the preset black-box, or choose another reward"
        if told == error.parts:
            raise
        raise type(error)(*told) from error
