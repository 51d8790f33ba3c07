"""What goes from node to node: parts of a config, and the folder of a run.

A reward, prompts, an estimator and settings are each some sections of a config (`Tables`), which the node that trains puts
together.
"""

from __future__ import annotations

from typing import Any

REWARD, PROMPTS, ESTIMATOR, SETTINGS, RUN = (
    "RLR_REWARD",
    "RLR_PROMPTS",
    "RLR_ESTIMATOR",
    "RLR_SETTINGS",
    "RLR_RUN",
)
CATEGORY = "training/RLR"

Inputs = dict[str, dict[str, Any]]
"""The inputs of a node: "required", "optional" and "hidden", each name → input."""


def text(tooltip: str, *, lines: bool = True, default: str = "") -> tuple[str, dict[str, Any]]:
    """An input of text. The classic renderer shows no name of one with several lines: while empty, it says what it is."""
    told = {"placeholder": tooltip} if lines else {}
    return "STRING", {"multiline": lines, "default": default, "tooltip": tooltip, **told}


def socket(kind: str, tooltip: str) -> tuple[str, dict[str, Any]]:
    """An input that another node is wired to."""
    return kind, {"tooltip": tooltip}
