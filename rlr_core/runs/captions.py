"""Captions in any script: DejaVu Sans for Latin, Greek, Cyrillic and more, the system's fonts for what it lacks (as CJK).

A character that no font has is never drawn as a box that says nothing: the caption says how many there are.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path

from PIL import ImageDraw, ImageFont

SIZE, LINE, LINES = 13, 17, 4
"""Of the letters and of a line, in pixels, and the most lines of a caption."""
PLAIN = frozenset(range(0x20, 0x180))
"""Characters that Pillow's own font has, in the place of DejaVu Sans where matplotlib, which has that, is not installed."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Lettering:
    """Measures, breaks and draws lines of text."""

    def __init__(self) -> None:
        self._fonts: dict[str, Font | None] = {}
        self._opened: dict[Path, Font] = {}

    def wrapped(self, text: str, width: int) -> list[str]:
        """A caption's lines within `width` pixels, broken at spaces, or between letters if need be; "…" ends a cut one."""
        lines = [""]
        for piece in self._pieces(self.drawable(text), width):
            if lines[-1] and self.length(lines[-1] + piece) > width:
                lines.append("")
            lines[-1] += piece if lines[-1] else piece.lstrip()
        if len(lines) <= LINES:
            return lines
        return [*lines[: LINES - 1], self._ended(lines[LINES - 1], width)]

    def draw(self, draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, ink: str) -> None:
        """Draw one line, whose upper left corner is `at`."""
        x, baseline = at[0], at[1] + SIZE
        for font, run in self._runs(text):
            draw.text((x, baseline), run, ink, font, anchor="ls")
            x += font.getlength(run)

    def length(self, text: str) -> float:
        """Of a line, in pixels."""
        return sum(font.getlength(run) for font, run in self._runs(text))

    def drawable(self, text: str) -> str:
        """`text`, where characters that no font has are counted in words."""
        seen = (letter for letter in text if not self._is_unseen(letter))
        parts = itertools.groupby(seen, key=lambda letter: letter.isspace() or self._font(letter) is not None)
        return "".join("".join(run) if known else _counted(len(list(run))) for known, run in parts)

    def _is_unseen(self, letter: str) -> bool:
        """Of marks that only join or select others, those that no font has."""
        unseen = unicodedata.category(letter) in ("Cc", "Cf", "Mn") and not letter.isspace()
        return unseen and self._font(letter) is None

    def _pieces(self, text: str, width: int) -> Iterator[str]:
        """Words with a space before them; the letters of a word that is too long for a line."""
        for number, word in enumerate(text.split()):
            space = " " if number else ""
            if self.length(word) <= width:
                yield space + word
            else:
                yield from (space + word[:1], *word[1:])

    def _ended(self, line: str, width: int) -> str:
        while line and self.length(line + "…") > width:
            line = line[:-1]
        return line + "…"

    def _runs(self, text: str) -> Iterator[tuple[Font, str]]:
        """Stretches of text with their fonts; a space goes with what is before it."""
        run, font = "", self._common
        for letter in text:
            own = font if letter.isspace() else self._font(letter) or self._common
            if own is not font and run:
                yield font, run
                run = ""
            run, font = run + letter, own
        if run:
            yield font, run

    def _font(self, letter: str) -> Font | None:
        """One that has the character."""
        if letter not in self._fonts:
            self._fonts[letter] = self._find(letter)
        return self._fonts[letter]

    def _find(self, letter: str) -> Font | None:
        dejavu = _dejavu()
        if ord(letter) in (_characters(dejavu) if dejavu else PLAIN):
            return self._common
        others = _others() if dejavu else []
        return next((self._open(file) for file in others if ord(letter) in _characters(file)), None)

    @cached_property
    def _common(self) -> Font:
        dejavu = _dejavu()
        return self._open(dejavu) if dejavu else ImageFont.load_default(SIZE)

    def _open(self, file: Path) -> Font:
        if file not in self._opened:
            self._opened[file] = ImageFont.truetype(str(file), SIZE)
        return self._opened[file]


def _counted(missing: int) -> str:
    return f"[{missing} character{'s' if missing > 1 else ''} without a font]"


def _dejavu() -> Path | None:
    try:
        import matplotlib
    except ImportError:
        return None
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def _others() -> list[Path]:
    """The system's fonts: upright and of normal weight first, sans serif before serif; none whose letters are all boxes."""
    from matplotlib.font_manager import fontManager

    found = sorted(
        (font for font in fontManager.ttflist if "last resort" not in font.name.lower()),
        key=lambda font: (
            font.style != "normal",
            font.weight != 400,
            "sans" not in font.name.lower(),
            font.fname,
        ),
    )
    return list(dict.fromkeys(Path(font.fname) for font in found))


@cache
def _characters(file: Path) -> frozenset[int]:
    """Code points that a font has; none where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(file)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
