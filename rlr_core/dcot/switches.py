r"""kohya's switches at the end of a prompt: `a cat --w 512 --h 768 --s 28 --l 7.5 --d 42 --n blurry`, as in sd-scripts.

They say how previews and `rlr sample` show the prompt; training and evaluations have the run's own settings. `--n`, the
negative prompt, holds everywhere. `\--w 512` is text, and so is a switch that is not one of these.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from rlr_core.errors import PromptError

_BEGIN = re.compile(r"(?:(?<=\s)|^)(\\*)--(?=(?:[whsd]\s+\d|l\s+[\d.]|n\s+\S))", re.IGNORECASE)
_SWITCH = re.compile(r"([whsd])\s+(\d{1,20})|(l)\s+(\d+\.?\d*|\.\d+)|(n)\s+(.+)", re.IGNORECASE | re.DOTALL)
_LETTERS = {"w": "width", "h": "height", "s": "steps", "l": "guidance_scale", "d": "seed"}
EXPECTED = "--w 512 --h 768 --s 28 --l 7.5 --d 42 --n words, each once and at the end of the prompt"
MOST = {"width": 2**14, "height": 2**14, "steps": 10_000, "guidance_scale": 1000, "seed": 2**62 - 1}


@dataclass(frozen=True)
class Shown:
    """How previews and samples show one prompt; None is as the run does.

    Attributes:
        width, height: pixels, both or none.
        steps, guidance_scale: of the sampler.
        seed: of the picture.
    """

    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if (self.width is None) != (self.height is None):
            raise PromptError("a width or a height alone", "--w and --h", "give both")
        for name, value in self.given.items():
            least = 0 if name in ("seed", "guidance_scale") else 1
            if not least <= value <= MOST[name]:
                raise PromptError(f"{name} {value}", f"from {least} to {MOST[name]}", "correct it")

    @property
    def given(self) -> dict[str, float]:
        """What is not as the run does."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height."""
        return None if self.width is None or self.height is None else (self.width, self.height)


AS_THE_RUN = Shown()
"""Nothing of its own."""


def without_switches(line: str) -> tuple[str, Shown, str | None]:
    """A line's text before its switches, what they say, and the negative prompt among them. Raises `PromptError`."""
    cuts = [match for match in _BEGIN.finditer(line) if not match[1]]
    if not cuts:
        return line, AS_THE_RUN, None
    ends = [*(match.start() for match in cuts[1:]), len(line)]
    table: dict[str, str] = {}
    for match, end in zip(cuts, ends, strict=True):
        words = line[match.end() : end].strip()
        switch = _SWITCH.fullmatch(words)
        letter = next((group.lower() for group in switch.groups()[::2] if group), "") if switch else ""
        if not switch or letter in table:
            raise PromptError(f"column {match.start() + 1}: '--{words}'", EXPECTED, "correct the line")
        table[letter] = next(group for group in switch.groups()[1::2] if group)
    negative = table.pop("n", None)
    given: dict[str, Any] = {
        _LETTERS[k]: float(value) if k == "l" else int(value) for k, value in table.items()
    }
    return line[: cuts[0].start()].rstrip(), Shown(**given), negative


def switches(shown: Shown) -> str:
    """What `without_switches` reads."""
    letters = {name: letter for letter, name in _LETTERS.items()}
    return "".join(f" --{letters[name]} {value!r}" for name, value in shown.given.items())


def escaped_switches(text: str) -> str:
    """Text in which no switch is read."""
    return _BEGIN.sub(lambda match: "\\" + match[0], text)


def unescaped_switches(text: str) -> str:
    """The text that was escaped."""
    return _BEGIN.sub(lambda match: match[0][1:] if match[1] else match[0], text)
