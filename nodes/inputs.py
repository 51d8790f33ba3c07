"""Settings of the core's config as inputs of nodes, and back: kind, range, choices and tooltip are the config's own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, get_type_hints

from rlr_core.config import EstimatorConfig, RunConfig, Tables
from rlr_core.errors import ConfigError

KINDS: dict[Any, str] = {
    bool: "BOOLEAN",
    int: "INT",
    float: "FLOAT",
    str: "STRING",
    list[str]: "STRING",
    list[float]: "STRING",
}
MOST = {"INT": 2**31 - 1, "FLOAT": 1e9}
"""Of numbers without a limit: a browser wants one."""

TRAINING = {
    "iterations": "training.iterations",
    "batch_size": "training.batch_size",
    "learning_rate": "training.learning_rate",
    "rank": "lora.rank",
    "steps": "sampling.steps",
    "cfg": "sampling.guidance_scale",
    "held_out_pairs": "output.evaluation",
    "preview_every": "output.preview_every",
    "seed": "training.seed",
    "lora_name": "output.name",
}
"""Input → setting, of the node that trains."""
OWN = {f.name: f"estimator.{f.name}" for f in dataclasses.fields(EstimatorConfig) if f.name != "name"}
ADVANCED = {**OWN, "weighing": "training.weighing"}
"""Input → setting, of the estimator, one by one."""
LEFT = {
    "eta": "sampling.eta",
    "targets": "lora.targets",
    "rslora": "lora.rslora",
    "dora": "lora.dora",
    "schedule": "training.schedule",
    "ema": "training.ema",
    "max_grad_norm": "training.max_grad_norm",
    "checkpoint_denoiser": "memory.checkpoint_denoiser",
    "painted": "memory.painted",
    "previews": "output.previews",
    "checkpoint_every": "output.checkpoint_every",
    "keep_loras": "output.keep_loras",
    "lora": "output.lora",
    "format": "output.format",
    "precision": "output.precision",
    "alarm": "alarm.action",
    "max_kl": "training.max_kl",
}
"""Input → setting, of the node for the rest."""

Input = tuple[Any, dict[str, Any]]
"""An input as ComfyUI reads it: its kind or its choices, and its options."""


def setting_input(name: str, *, default: Any = None, tooltip: str = "") -> Input:
    """The input of a setting, as "training.seed"; a list is a text with commas.

    Args:
        default: instead of the config's.
        tooltip: instead of the config's comment, which is none where the name says all.
    """
    field, kind = _field(name)
    own = _default(field)
    value = own if default is None else default
    shown = ", ".join(map(str, value)) if isinstance(value, list) else value
    options = {"default": shown, "tooltip": tooltip or field.metadata["comment"].capitalize() + "."}
    if field.metadata["choices"] and kind is str:
        return list(field.metadata["choices"]), options
    shape = KINDS[kind]
    return shape, {**options, **_range(shape, field.metadata, own)}


def tables(names: Mapping[str, str], inputs: Mapping[str, Any]) -> Tables:
    """Input → setting, and what the inputs say → sections of a config. Raises `ConfigError`."""
    found: Tables = {}
    for given, name in names.items():
        section, _, key = name.partition(".")
        found.setdefault(section, {})[key] = _value(name, inputs[given])
    return found


def _field(name: str) -> tuple[dataclasses.Field[Any], Any]:
    section, _, key = name.partition(".")
    kind = get_type_hints(RunConfig)[section]
    field = next(each for each in dataclasses.fields(kind) if each.name == key)
    return field, get_type_hints(kind)[key]


def _default(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _range(shape: str, facts: Mapping[str, Any], own: Any) -> dict[str, Any]:
    """Limits of a number, and its step by the config's own default; nothing of other kinds."""
    if shape not in MOST:
        return {}
    low = -MOST[shape] if facts["low"] is None else facts["low"]
    limits = {"min": low, "max": min(facts["high"], MOST[shape])}
    return limits if shape == "INT" else {**limits, "step": _step(own)}


def _step(value: float) -> float:
    """A hundredth of a number's leading digit, 0.01 at most: browsers round to it."""
    return min(0.01, 10.0 ** (math.floor(math.log10(value)) - 2)) if value else 0.01


def _value(name: str, given: Any) -> Any:
    kind = _field(name)[1]
    if kind not in (list[str], list[float]):
        return given
    words = [word.strip() for word in given.split(",") if word.strip()]
    return words if kind == list[str] else [_number(name, word) for word in words]


def _number(name: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ConfigError(
            f"{name} with '{word}'", "numbers, with commas between them", "correct it"
        ) from None
