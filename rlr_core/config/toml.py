"""Configs as TOML: files, `--set section.key=value`, and the guide to every setting that `rlr config` prints."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlr_core.config import presets
from rlr_core.config.paths import BACKSLASHES
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
ESCAPE = r'\\(?:[btnfr"\\]|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})'
WINDOWS = re.compile(rf'"((?:[^"\\\n]|{ESCAPE})*\\(?!{ESCAPE[2:]})[^"\n]*)"')
"""A text in quotes with a backslash that begins no special letter, as paths of Windows have."""
DEEP = re.compile(r"(?<![\w-])[\w-]+(?:[ \t]*\.[ \t]*[\w-]+){8}")
"""A key of more parts than any setting's name; the parser would take quadratic time for a very long one."""


def load(file: Path | None = None, overrides: Sequence[str | Tables] = (), preset: str = "") -> RunConfig:
    """A config from a preset, a TOML file (none: the preset alone) and overrides: see `layered`."""
    return from_dict(layered(file, overrides, preset), "the overrides")


def layered(
    file: Path | None = None,
    overrides: Sequence[str | Tables] = (),
    preset: str = "",
    base: Tables | None = None,
) -> Tables:
    """Settings on top of each other: `base`, the preset ("" for none), the file, then the overrides one by one.

    An override is a text `section.key=value` or a table of sections. Raises `ConfigError` for an unknown preset, for a file
    that is no config by itself or contradicts the preset, and for a text of another form; whoever makes a config of the result
    checks the overrides.
    """
    tables = [parse_override(each) if isinstance(each, str) else each for each in overrides]
    method, settings = presets.settings(preset), read_settings(file) if file else {}
    presets.refuse_contradiction(preset, settings, str(file))
    return merged(base or {}, method, settings, *tables)


def to_toml(config: RunConfig, *, comments: bool = True) -> str:
    """The whole config as a TOML file that `load` reads; with comments, a guide to every setting."""
    lines = ["# A run of RLR, with every setting.", ""] if comments else []
    return "\n".join([*lines, *_sections(config, comments, lambda setting, line: line)])


def to_guide(config: RunConfig, chosen: Tables, reasons: Mapping[str, str] = {}) -> str:
    """The config as a TOML file in which only what is in `chosen` is active: the rest are comments, with their defaults.

    Args:
        reasons: "section.key" → why a default is another one than that of every run.
    """

    def shown(setting: str, line: str) -> str:
        section, _, key = setting.partition(".")
        if setting in reasons:
            line += ("; " if "  # " in line else "  # ") + reasons[setting]
        return line if key in chosen.get(section, {}) else f"# {line}"

    lines = [
        "# A run of RLR. Lines that begin with # are defaults: take the # away to choose another value.",
        "",
    ]
    return "\n".join([*lines, *_sections(config, True, shown)])


def _sections(config: RunConfig, comments: bool, shown: Callable[[str, str], str]) -> list[str]:
    """Lines; `shown` makes a setting's of its name and plain line."""
    lines = []
    for section in dataclasses.fields(config):
        table = getattr(config, section.name)
        lines += [f"# {(type(table).__doc__ or '').splitlines()[0]}"] if comments else []
        lines.append(f"[{section.name}]")
        lines += [
            shown(f"{section.name}.{f.name}", _toml_line(f, getattr(table, f.name), comments))
            for f in dataclasses.fields(table)
        ]
        lines.append("")
    return lines


def _toml_line(f: dataclasses.Field[Any], value: Any, comments: bool) -> str:
    line = f"{f.name} = {value_text(value)}"
    choices = " | ".join(f.metadata["choices"])
    comment = "; ".join(part for part in (f.metadata["comment"], choices) if part)
    return f"{line}  # {comment}" if comments and comment else line


def value_text(value: Any) -> str:
    """A setting's value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(
            c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}"
            for c in value.replace("\\", "\\\\").replace('"', '\\"')
        )
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ", ".join(value_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{value_text(key)} = {value_text(item)}" for key, item in value.items()) + "}"
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
    except FileNotFoundError:
        raise ConfigError(
            f"no config file at {path}", "a TOML file", "`rlr config > run.toml` writes one"
        ) from None
    except OSError as error:
        got = f"{path} cannot be read: {error.strerror}"
        raise ConfigError(got, "a TOML file", "`rlr config > run.toml` writes one") from None
    try:
        return _parse((data[: data.rfind(b"\n") + 1] if torn else data).decode("utf-8-sig"))
    except ValueError as error:  # of the text's coding, of TOML, or of a number of thousands of digits
        raise ConfigError(f"{path} is not TOML: {error}", "a UTF-8 TOML file", _advice(data)) from None


def _advice(data: bytes) -> str:
    """What to do about a file that is not TOML; the commonest reason is a path of Windows."""
    found = WINDOWS.search(data.decode("utf-8-sig", "replace"))
    return f"{BACKSLASHES}: as in '{found[1]}'" if found else "compare it with `rlr config`"


def _parse(text: str) -> dict[str, Any]:
    """TOML in bounded time. Raises `ValueError`."""
    if DEEP.search(TEXTS.sub("_", text)):
        raise ValueError("it has a key of too many parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_override(text: str) -> Tables:
    """A table of one section: `section.key=value`, the value in TOML, or else plain text. Raises `ConfigError`."""
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
