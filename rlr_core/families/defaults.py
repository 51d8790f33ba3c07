"""What is set for a checkpoint of a family where nobody sets anything, and why it is another value than that of every run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Default(NamedTuple):
    """A setting's value, and in a few words why."""

    value: Any
    why: str


Defaults = Mapping[str, Default]
"""Setting, as "sampling.steps" → its default."""
