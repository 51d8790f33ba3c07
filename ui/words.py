"""A run's state and times in the words of the page."""

from __future__ import annotations

import html
import time

STATES = {
    "queued": ("queued", "grey"),
    "starting": ("preparing", "blue"),
    "running": ("training", "blue"),
    "stopping": ("stopping", "blue"),
    "stopped": ("stopped", "amber"),
    "finished": ("finished", "green"),
    "failed": ("failed", "red"),
    "interrupted": ("died", "red"),
    "damaged": ("damaged", "red"),
}
"""State of a run → its word on the page, and its colour; a colour never stands alone."""
LIVE = ("queued", "starting", "running", "stopping")


def badge(state: str) -> str:
    """HTML: a dot and the word."""
    word, colour = STATES.get(state, (state, "grey"))
    return f'<span class="state {colour}"><i></i>{html.escape(word)}</span>'


def duration(seconds: float) -> str:
    """In the unit that a person would say."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min" if hours < 10 else f"{hours} h"
    return f"{round(hours / 24)} days"


def ago(moment: float | None) -> str:
    """How long ago, as "5 min ago"; "" where it is not known."""
    if moment is None:
        return ""
    passed = time.time() - moment
    return "just now" if passed < 10 else f"{duration(passed)} ago"


def signed(value: float) -> str:
    """With a real minus sign."""
    return f"{'+' if value >= 0 else '−'}{abs(value):.3f}"


def first_line(text: str) -> str:
    """Of a message."""
    return text.splitlines()[0] if text.strip() else ""


WITHOUT_GRADIENT = ("sharpness", "jpeg-compressibility", "jpeg-incompressibility")
"""Rewards that need no weights, for every checkpoint."""
BLACK_BOXES = ("black-box", "black-box-unbiased")
"""The presets for them; the first is chosen by itself."""
