"""Files of prompts: text with one prompt per line, or JSON Lines and TOML for programs.

In JSON Lines a line is a text, as in a text file, or an object; in TOML `prompts` is a list of such. An object has "prompt" or
"stages" (texts from coarse to fine), and, as wanted, "negative" (a text, or one for each stage), "at" or "noise" (boundaries),
"prompt" beside stages (what the reward is told), "times", and "width", "height", "steps", "guidance_scale", "seed" of previews.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rlr_core.dcot.lines import format_line, parse_line
from rlr_core.dcot.stages import Boundaries, StagePrompts
from rlr_core.dcot.switches import Shown
from rlr_core.dcot.texts import decoded, hidden, numbered_lines, stripped
from rlr_core.errors import PromptError
from rlr_core.storage import read_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_BYTES = 4 * 2**20
"""Of a prompts file."""
SHOWN = tuple(field.name for field in fields(Shown))
KEYS = ("prompt", "stages", "negative", "at", "noise", "times", *SHOWN)
ADVICE = "write one prompt per line and save the file as UTF-8"


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The prompts of a file as lines, each with its number there, from 1. Raises `PromptError` naming file and line."""
    text = _read(path)
    readers = {".jsonl": _json_lines, ".toml": _toml_lines}
    reader = readers.get(path.suffix.lower(), _text_lines)
    try:
        lines = list(reader(text))
    except _BadLine as error:
        raise PromptError(f"{path}, line {error.number}: {error}", "a prompt", "correct it") from None
    if not lines:
        raise PromptError(f"the prompts file {path} is empty", "at least one prompt", ADVICE)
    _say_hidden(lines, path)
    return lines


def _say_hidden(lines: Sequence[tuple[int, str]], path: Path) -> None:
    """Text encoders see what people do not."""
    found = [(number, names) for number, line in lines if (names := hidden(line))]
    if found:
        number, names = found[0]
        warnings.warn(
            f"{path}: {len(found)} of its {len(lines)} prompts have invisible characters inside, such as {', '.join(names)} "
            f"in line {number}; text encoders read them",
            stacklevel=3,
        )


class _BadLine(Exception):
    def __init__(self, number: int, what: str):
        super().__init__(what)
        self.number = number


def _read(path: Path) -> str:
    try:
        return decoded(read_bytes(path, MOST_BYTES))
    except OSError as error:
        raise PromptError(
            f"the prompts file {path} cannot be read ({error.strerror})", "a text file", ADVICE
        ) from None
    except UnicodeDecodeError as error:
        raise PromptError(
            f"the prompts file {path} is not UTF-8 (byte {error.start}: {error.reason})",
            "a UTF-8 text file",
            ADVICE,
        ) from None


def _text_lines(text: str) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in numbered_lines(text) if not line.startswith("#"))


def _json_lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in numbered_lines(text):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _BadLine(number, f"no JSON ({error})") from None
        yield number, _as_line(value, number)


def _toml_lines(text: str) -> Iterator[tuple[int, str]]:
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise _BadLine(1, f"no TOML ({error})") from None
    prompts = values.get("prompts")
    if not isinstance(prompts, list):
        raise _BadLine(1, "no list called prompts")
    return ((number, _as_line(value, number)) for number, value in enumerate(prompts, 1))


def _as_line(value: Any, number: int) -> str:
    if isinstance(value, str):
        return stripped(value)
    if not isinstance(value, dict) or not value or set(value) - set(KEYS):
        raise _BadLine(number, f"{json.dumps(value)[:60]}, and not a text or an object of {', '.join(KEYS)}")
    try:
        return format_line(from_table(value))
    except (PromptError, TypeError, ValueError) as error:
        raise _BadLine(number, str(error).splitlines()[0]) from None


def from_table(table: dict[str, Any]) -> StagePrompts:
    """A prompt from an object of a JSON Lines or TOML file. Raises `PromptError`, `TypeError` or `ValueError`."""
    stages = [_one_line(text) for text in table.get("stages") or [table.get("prompt", "")]]
    negative = table.get("negative")
    negatives = [negative] * len(stages) if isinstance(negative, str) else negative or []
    places = table.get("at") or table.get("noise")
    return StagePrompts(
        prompts=tuple(stages),
        negatives=tuple(_one_line(text) for text in negatives),
        boundaries=Boundaries(tuple(map(float, places)), by_noise="noise" in table) if places else None,
        intent=_one_line(table.get("prompt", "")) if "stages" in table else "",
        count=int(table.get("times", 1)),
        shown=Shown(
            **{name: _number(table[name], whole=name != "guidance_scale") for name in SHOWN if name in table}
        ),
    )


def _number(value: Any, *, whole: bool) -> Any:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise TypeError(f"{value!r} is no {'whole ' * whole}number")
    return value


def _one_line(text: Any) -> str:
    """Encoders read a line break as a space."""
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no text")
    return stripped(" ".join(re.split(r"[\r\n]+", text)))


def parsed(lines: Sequence[tuple[int, str]], source: str) -> list[StagePrompts]:
    """The prompts of lines. Raises `PromptError` naming the source, the line and the column."""
    prompts = []
    for number, line in lines:
        try:
            prompts.append(parse_line(line))
        except PromptError as error:
            got, expected, do = error.parts
            raise PromptError(f"{source}, line {number}, {got}", expected, do) from None
    return prompts
