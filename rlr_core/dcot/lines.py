r"""A prompt as a line of text, as people write it by hand.

    a red circle on sand
    a red circle on sand | negative: blurry | times: 3
    coarse: a shape on sand | mid: a red circle | fine: a striped red circle | prompt: a striped red circle on sand
    1: a beach | 2: a dog on a beach | at: 0.4
    coarse: a hand | mid: an open hand | fine: five fingers | negative fine: blurry | at noise: 0.98, 0.8

A `|` parts fields only before a field's name; `\|` does not, nor does `\coarse:` at the start name a field. A line that begins
with `#` is a comment, one with `\#` is not. kohya's switches may stand at its end (`switches.py`). Whatever a line says is read
back from what `format_line` writes of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from rlr_core.dcot.stages import NAMES, Boundaries, StagePrompts, stage_names
from rlr_core.dcot.switches import escaped_switches, switches, unescaped_switches, without_switches
from rlr_core.dcot.texts import stripped
from rlr_core.errors import PromptError

_STAGE = rf"(?:{'|'.join(NAMES)}|\d{{1,2}})"
_NAME = rf"(?:(?:negative[ ]+)?{_STAGE}|negative|prompt|times|at(?:[ ]+noise)?)[ ]*:"
_SEPARATOR = re.compile(rf"(\\*)\|(?=\s*{_NAME})", re.IGNORECASE)
_START = re.compile(rf"(\\*)(?=#|{_NAME})", re.IGNORECASE)
_FIELD = re.compile(rf"\s*({_NAME})", re.IGNORECASE)


class _Field(NamedTuple):
    """A named part of a line: its name ("" for a plain prompt), its text, and the column where it begins, from 1."""

    name: str
    text: str
    column: int


def parse_line(line: str) -> StagePrompts:
    """The prompt that a line says. Raises `PromptError` that names the column."""
    line, shown, negative = without_switches(line)
    table: dict[str, _Field] = {}
    for field in _fields(line):
        if field.name in table:
            raise _error(field, f"'{field.name}' twice", "each field once")
        table[field.name] = field
    if negative is not None:
        if "negative" in table:
            raise _error(table["negative"], "'negative' and --n", "one of them")
        table["negative"] = _Field("negative", _unescaped(negative), len(line) + 1)
    try:
        return replace(_assembled(table), shown=shown)
    except PromptError as error:
        raise _at(1, error) from None


def _fields(line: str) -> Iterator[_Field]:
    begin = 0
    cuts = [match for match in _SEPARATOR.finditer(line) if not match[1]]
    for end, after in [*((match.start(), match.end()) for match in cuts), (len(line), len(line))]:
        yield _field(line[begin:end], begin, named=begin > 0)
        begin = after


def _field(text: str, column: int, *, named: bool) -> _Field:
    match = _FIELD.match(text)
    assert match or not named, "a separator comes before a name"
    name = re.sub(r"\s+", " ", match[1][:-1].strip()).lower() if match else ""
    body = _unescaped(text[match.end() :] if match else text)
    return _Field(name, body, column + len(text) - len(text.lstrip()) + 1)


def _unescaped(text: str) -> str:
    text = _SEPARATOR.sub(lambda match: match[0][1:] if match[1] else match[0], stripped(text))
    text = unescaped_switches(text)
    return text[1:] if text.startswith("\\") and _START.match(text) else text


def _escaped(text: str) -> str:
    text = _SEPARATOR.sub(lambda match: "\\" + match[0], escaped_switches(text))
    return "\\" + text if _START.match(text) else text


def _assembled(table: dict[str, _Field]) -> StagePrompts:
    stages = _stages(table)
    if "" not in table and not stages and "prompt" in table:  # by its name alone
        table[""] = table.pop("prompt")
    plain = table.get("")
    if bool(stages) == bool(plain):
        where = plain or next(iter(table.values()))
        got = "a plain prompt beside stages" if stages else "no prompt"
        raise _error(where, got, "a prompt, or stages such as coarse: … | mid: … | fine: …")
    prompts = (plain.text,) if plain else tuple(table[name].text for name in stages)
    return StagePrompts(
        prompts=prompts,
        negatives=_negatives(table, stages or [""]),
        boundaries=_boundaries(table),
        intent=table["prompt"].text if "prompt" in table else "",
        count=_count(table),
    )


def _stages(table: dict[str, _Field]) -> list[str]:
    """The names of the stages, in their order: all of `NAMES` that are there, or numbers from 1 on."""
    named = [name for name in NAMES if name in table]
    numbers = sorted(int(name) for name in table if name.isdigit())
    if named and numbers:
        raise _error(table[str(numbers[0])], "stages by name and by number", "one way of naming them")
    if numbers != list(range(1, len(numbers) + 1)):
        raise _error(table[str(numbers[-1])], f"stages {numbers}", "1, 2, … without a gap")
    return named or [str(number) for number in numbers]


def _negatives(table: dict[str, _Field], stages: list[str]) -> tuple[str, ...]:
    own = {name: field for name, field in table.items() if name.startswith("negative ")}
    for name, field in own.items():
        if name.removeprefix("negative ") not in stages:
            raise _error(field, f"'{name}' without that stage", f"one of {', '.join(stages)}")
    if not own and "negative" not in table:
        return ()
    general = table["negative"].text if "negative" in table else ""
    return tuple(own[f"negative {s}"].text if f"negative {s}" in own else general for s in stages)


def _boundaries(table: dict[str, _Field]) -> Boundaries | None:
    given = [table[name] for name in ("at", "at noise") if name in table]
    if not given:
        return None
    field = given[0]
    if len(given) > 1:
        raise _error(given[1], "'at' and 'at noise'", "one of them")
    try:
        values = tuple(float(word) for word in field.text.split(","))
    except ValueError:
        raise _error(field, f"'{field.text}'", "numbers such as 0.3, 0.7") from None
    try:
        return Boundaries(values, by_noise=field.name == "at noise")
    except PromptError as error:
        raise _at(field.column, error) from None


def _count(table: dict[str, _Field]) -> int:
    if "times" not in table:
        return 1
    field = table["times"]
    if not re.fullmatch(r"[1-9]\d{0,5}", field.text):
        raise _error(field, f"'{field.text}'", "a whole number from 1 on")
    return int(field.text)


def format_line(prompts: StagePrompts) -> str:
    """The line that `parse_line` makes this prompt of."""
    several = len(prompts.prompts) > 1
    names = stage_names(prompts)
    fields = [
        f"{name}: {_escaped(text)}" if several else _escaped(text)
        for name, text in zip(names, prompts.prompts, strict=False)
    ]
    if len(set(prompts.negatives)) == 1:
        fields.append(f"negative: {_escaped(prompts.negatives[0])}")
    elif prompts.negatives:
        pairs = zip(names, prompts.negatives, strict=True)
        fields += [f"negative {name}: {_escaped(text)}" for name, text in pairs]
    if prompts.boundaries and several:
        how = "at noise" if prompts.boundaries.by_noise else "at"
        fields.append(f"{how}: {', '.join(repr(value) for value in prompts.boundaries.values)}")
    fields += [f"prompt: {_escaped(prompts.intent)}"] if prompts.intent else []
    fields += [f"times: {prompts.count}"] if prompts.count > 1 else []
    return " | ".join(fields) + switches(prompts.shown)


def _error(field: _Field, got: str, expected: str) -> PromptError:
    return _at(field.column, PromptError(got, expected, "correct the line"))


def _at(column: int, error: PromptError) -> PromptError:
    """The same, with the column in front; an error that names one already stays."""
    got, expected, do = error.parts
    return error if got.startswith("column ") else PromptError(f"column {column}: {got}", expected, do)
