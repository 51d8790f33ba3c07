"""Paths in a config: what TOML makes of a backslash in "…" is no path any more."""

from __future__ import annotations

from typing import Any

BACKSLASHES = "in \"…\" a backslash begins a special letter: write the path in '…', or with / instead"


def path_problem(value: Any) -> str:
    """Why a setting that names files cannot mean what it says; "" where it can.

    Args:
        value: a text, a list of texts, or a table by texts.
    """
    names = [value] if isinstance(value, str) else list(value)
    spoilt = next((name for name in names if any(letter < " " or letter == "\x7f" for letter in name)), None)
    return "" if spoilt is None else "it has a tab, the end of a line, or another such letter in it"
