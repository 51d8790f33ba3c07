"""Configs from nested tables and back. Nothing is believed: unknown keys, wrong types and values out of range are errors."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from typing import Any, get_type_hints

from rlr_core.config.paths import BACKSLASHES, path_problem
from rlr_core.config.sections import MOST, RunConfig, Sizes
from rlr_core.errors import ConfigError

Tables = dict[str, Any]
"""Section → key → value."""


def from_dict(values: Tables, source: str = "config") -> RunConfig:
    """A config from nested tables. Raises `ConfigError` for unknown keys, wrong types and values out of range."""
    sections = {f.name: f for f in dataclasses.fields(RunConfig)}
    _refuse_unknown(values, sections, source)
    return RunConfig(
        **{
            name: _section(sections[name].default_factory, name, table, source)
            for name, table in values.items()
        }
    )


def to_dict(config: RunConfig) -> Tables:
    """Nested tables, as `from_dict` reads them."""
    return dataclasses.asdict(config)


def merged(*layers: Tables) -> Tables:
    """Sections of settings on top of each other, the last one uppermost. What is not a table replaces what it is put on."""
    together: Tables = {}
    for layer in layers:
        for section, table in layer.items():
            below = together.get(section)
            if isinstance(table, dict) and isinstance(below, dict):
                table = {**below, **table}
            together[section] = table
    return together


def _refuse_unknown(values: Any, known: dict[str, Any], where: str) -> None:
    if not isinstance(values, dict):
        raise ConfigError(
            f"{where} is {_told(values)}", "a table of settings", f"write it as a section: [{where}]"
        )
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"unknown key '{key}' in {where}",
                f"one of {', '.join(known)}",
                f"did you mean '{near}'?",
            )


def _section(kind: Any, name: str, table: Any, source: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    _refuse_unknown(table, fields, f"[{name}] of {source}" if isinstance(table, dict) else name)
    types = get_type_hints(kind)
    return kind(
        **{key: _checked(f"{name}.{key}", value, types[key], fields[key]) for key, value in table.items()}
    )


LARGEST = 2**63 - 1
"""Whole number; no setting is near it, and torch takes no larger one."""
WIDEST = 16_384
"""Pixels of a picture's side."""
KINDS: dict[Any, str] = {
    str: "a text",
    int: "a whole number, of at most 64 bits",
    float: "a number",
    bool: "true or false",
    list[str]: "a list of texts",
    list[float]: "a list of numbers",
    dict[str, float]: "a table of names and finite numbers, as { embedded = 0.5 }",
    Sizes: f"a number of pixels to {WIDEST} (0 for the checkpoint's own), [width, height], or a list of these pairs",
}


def _as_kind(value: Any, kind: Any) -> Any:
    """`value`, with whole numbers as fractions where those are wanted; None where it is of another kind."""
    if type(value) is int and abs(value) > LARGEST:
        return None
    if kind is float and type(value) is int:
        return float(value)
    if kind == list[str]:
        return value if isinstance(value, list) and all(type(item) is str for item in value) else None
    if kind == list[float]:
        numbers = [_as_kind(item, float) for item in value] if isinstance(value, list) else [None]
        return numbers if all(number is not None and math.isfinite(number) for number in numbers) else None
    if kind == dict[str, float]:
        return _as_numbers(value) if isinstance(value, dict) else None
    if kind == Sizes:
        return value if _is_sizes(value) else None
    return value if type(value) is kind else None


def _is_sizes(value: Any) -> bool:
    """A number from 0 on, a pair of numbers from 1 on, or a list of such pairs."""
    if type(value) is int:
        return 0 <= value <= WIDEST
    pairs = value if isinstance(value, list) and all(isinstance(item, list) for item in value) else [value]
    return bool(pairs) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(type(side) is int and 0 < side <= WIDEST for side in pair)
        for pair in pairs
    )


def _as_numbers(table: dict[str, Any]) -> dict[str, float] | None:
    numbers = {name: _as_kind(number, float) for name, number in table.items()}
    fits = all(number is not None and math.isfinite(number) for number in numbers.values())
    return numbers if fits else None


def _checked(name: str, given: Any, kind: Any, f: dataclasses.Field[Any]) -> Any:
    value = _as_kind(given, kind)
    if value is None:
        raise ConfigError(f"{name} = {_told(given)}", KINDS[kind], f"see `rlr config` for {name}")
    choices, form, problem = (f.metadata[key] for key in ("choices", "form", "problem"))
    low, high = (f.metadata[key] for key in ("low", "high"))
    if choices and (other := _not_of(choices, value)):
        near = difflib.get_close_matches(other[0], choices, n=1, cutoff=0.0)[0]
        raise ConfigError(f"{name} = {value!r}", f"one of {', '.join(choices)}", f"did you mean '{near}'?")
    if form and not re.fullmatch(form, value):
        raise ConfigError(f"{name} = {value!r}", f.metadata["comment"], "correct it")
    if why := problem(value):
        raise ConfigError(f"{name} = {value!r}: {why}", "a plain file name", "choose another one")
    if f.metadata["path"] and (why := path_problem(value)):
        raise ConfigError(f"{name} = {value!r}: {why}", "the name of a file", BACKSLASHES)
    if low is not None and not low <= value <= high:
        wanted = f"a finite number of at least {low}" if high == MOST else f"a number from {low} to {high}"
        raise ConfigError(f"{name} = {value!r}", wanted, "correct it")
    return value


def _not_of(choices: tuple[str, ...], value: Any) -> list[str]:
    """What of a value, or of a list's items, is none of the choices."""
    items = value if isinstance(value, list) else [value]
    return [str(item) for item in items if item not in choices]


def _told(value: Any) -> str:
    """What is in a file may be too long, or too deep, to be written out."""
    try:
        return repr(value)
    except (ValueError, RecursionError):
        return "something too large to be written out"
