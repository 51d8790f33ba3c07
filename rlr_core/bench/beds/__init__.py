"""Test beds: small checkpoints, each with a world of drawn pictures, a weakness, a reward and a held-out scorer of its own.

What is found on one of them may be true of that one alone: a study runs on any, and on a user's own checkpoint and reward. They
are trained from nothing by `rlr bench beds --train NAME`; their files are in the repository and are not installed.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from pathlib import Path
from typing import Any

from rlr_core.bench.beds.bed import EMBEDDED, Bed, own_bed
from rlr_core.config import from_dict
from rlr_core.errors import ConfigError
from rlr_core.trainer import Setup, prepare
from rlr_core.trainer.devices import choose_device

MADE = ("count", "place", "shape")
"""Beds that the project trains itself: the names of modules with a `BED`, which are imported when one is asked for."""
NAMES = (EMBEDDED.name, *MADE)


def bed(name: str) -> Bed:
    """The bed of that name, or of a config file. Raises `ConfigError`."""
    if name == EMBEDDED.name:
        return EMBEDDED
    if name in MADE:
        return import_module(f"rlr_core.bench.beds.{name}").BED
    if name.endswith(".toml"):
        return own_bed(Path(name))
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.0)[0]
    raise ConfigError(
        f"the bed '{name}'", f"{', '.join(NAMES)}, or a config FILE.toml", f"did you mean '{near}'?"
    )


def prepared(settings: dict[str, Any]) -> Setup:
    """All that a job trains with, on the bed that its settings name. Raises `RLRError`."""
    config, ground = from_dict(settings["config"]), bed(settings.get("bed", EMBEDDED.name))
    materials = ground.materials(choose_device(config.model.device), config.reward)
    return prepare(ground.completed(config), materials=materials)


__all__ = ["EMBEDDED", "MADE", "NAMES", "Bed", "bed", "prepared"]
