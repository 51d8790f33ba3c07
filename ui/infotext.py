"""A1111's text of how a picture was made, which its forks, Civitai and we write, too (modules/infotext_utils.py there).

The prompt, then "Negative prompt: …", both in any number of lines, then "Steps: …, Size: 512x768, …", with values in quotes
where they have a comma or a colon.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlr_core.dcot import StagePrompts, format_line
from rlr_core.errors import ConfigError

QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')
SIZE = re.compile(r"(?:^|, )Size: (\d+)x(\d+)")


@dataclass(frozen=True)
class Infotext:
    """What a new run can take over of a picture.

    Attributes:
        prompt: as a line of a prompts file.
        negative: negative prompt.
        size: as `sampling.size` is written, or "" where the text does not say it.
    """

    prompt: str
    negative: str
    size: str


def read_infotext(text: str) -> Infotext:
    """Raises `RLRError` for a text without generation data, or with an empty prompt."""
    texts, found, settings = ("\n" + text.replace("\r\n", "\n").strip()).rpartition("\nSteps: ")
    if not found:
        raise ConfigError(
            f"a picture that does not say how it was made{': ' * bool(text.strip())}{text.strip()[:60]}",
            "its prompt and its settings, as A1111 and Forge write them",
            "make a picture, or choose another one",
        )
    prompt, _, negative = texts.partition("\nNegative prompt:")
    line = format_line(StagePrompts((_in_one_line(prompt),)))
    return Infotext(line, _in_one_line(negative), _size(settings))


def _in_one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _size(settings: str) -> str:
    found = SIZE.search(QUOTED.sub("", settings))
    if not found:
        return ""
    width, height = found.groups()
    return width if width == height else f"[{width}, {height}]"
