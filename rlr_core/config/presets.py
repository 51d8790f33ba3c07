"""Named settings that a user starts from; a config file and `--set` go on top."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from rlr_core.config.tables import Tables
from rlr_core.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """A starting point.

    Attributes:
        summary: what it is for, in plain words.
        settings: as `from_dict` reads them; what is absent has its default.
    """

    summary: str
    settings: Tables


PRESETS = {
    "default": Preset("what learned best in the measurements: see docs/evidence.md", {}),
    "black-box": Preset(
        "for rewards without a gradient: half order on one sub-chain of each picture",
        {"estimator": {"name": "rlr", "first_order_steps": 0, "sub_chains": "learned"}},
    ),
    "published": Preset(
        "Recursive Likelihood Ratio to the letter of arXiv 2502.00639, eq. 11: unbiased, and very noisy",
        {
            "estimator": {"name": "published", "sub_chain_length": 2, "chunk": 1},
            "training": {"weighing": "equal"},
        },
    ),
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises `ConfigError` naming the nearest."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"preset '{name}'", f"one of {', '.join(PRESETS)}", f"did you mean '{near}'?")
    return PRESETS[name]
