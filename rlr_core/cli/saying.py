"""What the commands print: paths, prompts and names may come from anywhere, and a terminal obeys control characters."""

from __future__ import annotations

from rlr_core.errors import visible


def say(text: str = "", *, end: str = "\n", flush: bool = False) -> None:
    """Print `text`, made `visible`."""
    print(visible(text), end=end, flush=flush)
