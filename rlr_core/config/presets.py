"""Named settings that a user starts from; a config file and `--set` go on top."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from rlr_core.config.changes import Change, changes
from rlr_core.config.sections import RunConfig
from rlr_core.config.tables import Tables, from_dict
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
    "default": Preset(
        "what learned best in the measurements (see docs/evidence.md): a cheap estimator, which is biased",
        {"estimator": {"name": "lookahead"}, "training": {"weighing": "signal"}},
    ),
    "black-box": Preset(
        "for rewards without a gradient: a small network learns what the reward says, and is climbed; biased",
        {"estimator": {"name": "learned_critic", "draws": 2}, "training": {"backtrack": False}},
    ),
    "black-box-unbiased": Preset(
        "for rewards without a gradient: half order on one sub-chain of each picture; unbiased, and slow",
        {"estimator": {"name": "rlr", "first_order_steps": 0, "sub_chains": "learned"}},
    ),
    "published": Preset(
        "Recursive Likelihood Ratio to the letter of arXiv 2502.00639, eq. 11: unbiased, and very noisy",
        {
            "estimator": {"name": "published", "sub_chain_length": 2, "chunk": 1},
            "training": {"weighing": "equal", "max_kl": 0.0},
        },
    ),
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises `ConfigError` naming the nearest."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"preset '{name}'", f"one of {', '.join(PRESETS)}", f"did you mean '{near}'?")
    return PRESETS[name]


def settings(name: str) -> Tables:
    """Those of the preset of that name; none for "". Raises `ConfigError`."""
    return preset(name).settings if name else {}


def refuse_contradiction(name: str, above: Tables, source: str) -> None:
    """Raise `ConfigError` where `above`, from `source`, has another value for what the preset sets: one was not meant."""
    differing = [
        f"{section}.{key} = {above[section][key]!r} (preset: {value!r})"
        for section, table in settings(name).items()
        for key, value in table.items()
        if above.get(section, {}).get(key, value) != value
    ]
    if differing:
        raise ConfigError(
            f"--preset {name}, and {source}, which says otherwise: {', '.join(differing)}",
            "settings from one of the two",
            "take these lines out of the file, or leave --preset away; --set changes single settings of a preset",
        )


METHOD = ("lora", "sampling", "inference", "estimator", "training", "memory", "alarm")
"""Sections that say how is trained, and not on what."""


def nearest(config: RunConfig) -> tuple[str, list[Change]]:
    """The preset that a config's estimator comes nearest to, and every setting of its method that differs from the preset."""
    found = {name: changes(from_dict(each.settings), config) for name, each in PRESETS.items()}
    name = min(found, key=lambda name: len([c for c in found[name] if _is_of_method(c.name)]))
    return name, [change for change in found[name] if change.name.partition(".")[0] in METHOD]


def _is_of_method(setting: str) -> bool:
    return setting.startswith("estimator.") or setting == "training.weighing"
