"""What differs between the config that a run began with and the one that it is to go on with, and what of it may."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from rlr_core.config.sections import RunConfig
from rlr_core.config.tables import Tables


@dataclass(frozen=True)
class Change:
    """A setting that has another value than before.

    Attributes:
        name: as "training.iterations".
        allowed: whether a run may go on with it.
    """

    name: str
    before: Any
    now: Any
    allowed: bool

    def __str__(self) -> str:
        return f"{self.name} = {self.now!r} (so far {self.before!r})"


def changes(before: RunConfig, now: RunConfig) -> list[Change]:
    """All settings whose values differ, in the order of the config."""
    found = []
    for name, freedom in _freedoms().items():
        old, new = _value(before, name), _value(now, name)
        if old != new:
            moved = freedom == "movable" and Path(old).name == Path(new).name
            found.append(Change(name, old, new, freedom == "free" or moved))
    return found


def free_settings() -> list[str]:
    """The names of those that may have any other value when a run goes on."""
    return [name for name, freedom in _freedoms().items() if freedom == "free"]


def missing_settings(tables: Tables) -> list[str]:
    """The names of those that nested tables leave at their default."""
    return [
        name for name in _freedoms() if name.partition(".")[2] not in tables.get(name.partition(".")[0], {})
    ]


def _freedoms() -> dict[str, str]:
    """Setting → "free", "movable", or "" for one that stays as it was."""
    freedoms = {}
    for section in dataclasses.fields(RunConfig):
        kinds = get_type_hints(section.default_factory, include_extras=True)
        freedoms |= {f"{section.name}.{key}": _freedom(kind) for key, kind in kinds.items()}
    return freedoms


def _freedom(kind: Any) -> str:
    return next(iter(getattr(kind, "__metadata__", ())), "")


def _value(config: RunConfig, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)
