"""Wildcards `__name__` and variants `{a|b|c}`, as users of A1111 and ComfyUI know them, through the library dynamicprompts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlr_core.dcot.texts import decoded, lines_of
from rlr_core.errors import PromptError
from rlr_core.storage import read_bytes

WILDCARD = re.compile(r"__([\w*./-]+?)__")
ENDINGS = {".txt", ".json", ".yaml", ".yml"}
MOST_BYTES = 4 * 2**20
"""Of a file of wildcards."""


def has_variants(text: str) -> bool:
    """Whether a text stands for several."""
    return bool(WILDCARD.search(text)) or any("|" in part for part in _braces(text))


def expanded(text: str, folder: Path | None, count: int, seed: int) -> list[str]:
    """Up to `count` different texts that a text with wildcards or variants stands for, drawn at random; one without is itself.

    Args:
        folder: where a file for each wildcard is, as `colours.txt` for `__colours__`.
        seed: the same one draws the same texts.

    Raises:
        PromptError: a wildcard without a file, or braces that cannot be read.
    """
    if not has_variants(text):
        return [text]
    _refuse_missing(text, folder)
    draw = _generator(folder, seed)
    drawn = (_once(text, draw) for _ in range(4 * count))
    return list(dict.fromkeys(drawn))[:count]


def _once(text: str, draw: Any) -> str:
    """Each brace and each wildcard by itself: what is around them may hold anything."""
    parts = []
    for part, special in _parts(text):
        parts.append(_drawn(part, draw) if special else part)
    return "".join(parts)


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, and whether each stands for several."""
    rest = text
    while rest:
        brace, wildcard = _first_brace(rest), WILDCARD.search(rest)
        begins = [found for found in (brace, wildcard.span() if wildcard else None) if found]
        if not begins:
            yield rest, False
            return
        start, end = min(begins)
        yield rest[:start], False
        yield rest[start:end], True
        rest = rest[end:]


def _first_brace(text: str) -> tuple[int, int] | None:
    """Where the first pair of braces with a `|` in it begins and ends; braces may hold braces."""
    depth, start = 0, 0
    for place, letter in enumerate(text):
        if letter == "{":
            start, depth = (place if not depth else start), depth + 1
        elif letter == "}" and depth:
            depth -= 1
            if not depth and "|" in text[start:place]:
                return start, place + 1
    return None


def _braces(text: str) -> list[str]:
    found = _first_brace(text)
    return [text[slice(*found)]] if found else []


def _drawn(part: str, draw: Any) -> str:
    try:
        return draw.generate(part, 1)[0]
    except PromptError:
        raise
    except Exception as error:
        first = str(error).splitlines()[0]
        raise PromptError(
            f"'{part}' cannot be read ({first})", "variants such as {a|b}", "correct it"
        ) from None


def _generator(folder: Path | None, seed: int) -> Any:
    try:
        from dynamicprompts.generators import RandomPromptGenerator
        from dynamicprompts.wildcards import WildcardManager
    except ImportError:
        raise PromptError(
            "a prompt with wildcards or variants, and dynamicprompts is not installed",
            "that library, or plain prompts",
            "pip install 'rlr[prompts]'",
        ) from None
    roots = {"": [folder, _text_files(folder)]} if folder else None
    return RandomPromptGenerator(WildcardManager(root_map=roots), seed=seed)


def _text_files(folder: Path) -> dict[str, Any]:
    """Name → the lines of a file, read when they are wanted, as those of prompts files.

    The library would keep a mark before the first one, and leave out what is not UTF-8.
    """
    from dynamicprompts.wildcards.collection import WildcardTextFile

    class Lines(WildcardTextFile):
        def get_values(self) -> list[str]:
            return _lines(self._path)

    files = (file for file in _files(folder) if file.suffix == ".txt" and file.is_file())
    return {file.relative_to(folder).with_suffix("").as_posix(): Lines(file) for file in files}


def _lines(file: Path) -> list[str]:
    try:
        return lines_of(decoded(read_bytes(file, MOST_BYTES)))
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(
            f"the wildcards in {file} cannot be read ({error})", "a UTF-8 text file", "save it as UTF-8"
        ) from None


def _refuse_missing(text: str, folder: Path | None) -> None:
    known = (
        {file.relative_to(folder).with_suffix("").as_posix() for file in _files(folder)} if folder else set()
    )
    for name in WILDCARD.findall(text):
        if "*" in name or name in known or any(each.startswith(f"{name}/") for each in known):
            continue
        near = difflib.get_close_matches(name, known, n=1)
        where = f"a file {name}.txt in {folder}" if folder else "a folder of them"
        hint = (
            f"did you mean __{near[0]}__?" if near else "add the file, or set prompts.wildcards to the folder"
        )
        raise PromptError(f"the wildcard __{name}__ without a file", where, hint)


def _files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise PromptError(f"there is no folder of wildcards at {folder}", "a folder", "set prompts.wildcards")
    return (file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS)
