"""Configs as TOML: files, `--set section.key=value`, and the guide to every setting that `rlr config` prints."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlr_core.config import presets
from rlr_core.config.sections import RunConfig
from rlr_core.config.tables import Tables, from_dict, merged
from rlr_core.errors import ConfigError
from rlr_core.storage import read_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LONGEST = 8 * 2**20
"""Bytes of a config file; a run's has all of its prompts in it."""
TEXTS = re.compile(
    r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*', re.DOTALL
)
"""What a file has of texts and comments."""
DEEP = re.compile(r"(?<![\w-])[\w-]+(?:[ \t]*\.[ \t]*[\w-]+){8}")
"""A key of more parts than any setting's name; the parser would take quadratic time for a very long one."""


def load(
    file: Path | None = None, overrides: Sequence[str | Tables] = (), preset: str = "default"
) -> RunConfig:
    """A config from a preset, a TOML file (none: the preset alone) and overrides: see `layered`."""
    return from_dict(layered(file, overrides, preset), "the overrides")


def layered(
    file: Path | None = None,
    overrides: Sequence[str | Tables] = (),
    preset: str = "default",
    base: Tables | None = None,
) -> Tables:
    """Settings on top of each other: `base`, the preset, the file, then the overrides one by one.

    An override is a text `section.key=value` or a table of sections. Raises `ConfigError` for an unknown preset, for a file
    that is no config by itself, and for a text of another form; whoever makes a config of the result checks the overrides.
    """
    tables = [_parse_override(each) if isinstance(each, str) else each for each in overrides]
    return merged(base or {}, presets.preset(preset).settings, read_settings(file) if file else {}, *tables)


def to_toml(config: RunConfig, *, comments: bool = True) -> str:
    """The config as a TOML file that `load` reads; with comments, a guide to every setting."""
    lines = (
        ["# A run of RLR. Every setting is shown with its default; delete what you do not change.", ""]
        if comments
        else []
    )
    for section in dataclasses.fields(config):
        table = getattr(config, section.name)
        lines += [f"# {(type(table).__doc__ or '').splitlines()[0]}"] if comments else []
        lines.append(f"[{section.name}]")
        lines += [_toml_line(f, getattr(table, f.name), comments) for f in dataclasses.fields(table)]
        lines.append("")
    return "\n".join(lines)


def _toml_line(f: dataclasses.Field[Any], value: Any, comments: bool) -> str:
    line = f"{f.name} = {_toml_value(value)}"
    choices = " | ".join(f.metadata["choices"])
    comment = "; ".join(part for part in (f.metadata["comment"], choices) if part)
    return f"{line}  # {comment}" if comments and comment else line


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(
            c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}"
            for c in value.replace("\\", "\\\\").replace('"', '\\"')
        )
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_toml_value(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
        )
    return repr(value)


def read_settings(path: Path, *, torn: bool = False) -> Tables:
    """What a file says. It is checked alone, so that an error names the file, whatever lies on top of it.

    Args:
        torn: the file was cut off; a last line that does not end is left out.
    """
    settings = read_toml(path, torn=torn)
    from_dict(settings, str(path))
    return settings


def read_toml(path: Path, *, torn: bool = False) -> Tables:
    """The tables in a file; for `torn` see `read_settings`. Raises `ConfigError` naming it."""
    try:
        data = read_bytes(path, LONGEST)
        return _parse((data[: data.rfind(b"\n") + 1] if torn else data).decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(
            f"no config file at {path}", "a TOML file", "`rlr config > run.toml` writes one"
        ) from None
    except OSError as error:
        got = f"{path} cannot be read: {error.strerror}"
        raise ConfigError(got, "a TOML file", "`rlr config > run.toml` writes one") from None
    except ValueError as error:  # of the text's coding, of TOML, or of a number of thousands of digits
        raise ConfigError(
            f"{path} is not TOML: {error}", "a UTF-8 TOML file", "compare it with `rlr config`"
        ) from None


def _parse(text: str) -> dict[str, Any]:
    """TOML in bounded time. Raises `ValueError`."""
    if DEEP.search(TEXTS.sub("_", text)):
        raise ValueError("it has a key of too many parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _parse_override(text: str) -> Tables:
    """`section.key=value`; the value is TOML, or else plain text."""
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot:
        raise ConfigError(
            f"--set {text}", "--set section.key=value", "for example --set training.iterations=100"
        )
    try:
        return {section: {key: _parse(f"value = {value}")["value"]}}
    except ValueError:
        return {section: {key: value.strip()}}
