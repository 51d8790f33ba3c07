"""What people see of a text file: its lines, as editors end them, without what takes no room."""

from __future__ import annotations

import codecs
import re
import unicodedata

INVISIBLE = ("Zs", "Zl", "Zp", "Cc", "Cf")
"""Unicode's categories of spaces, line ends, and characters that take no room."""
FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and signs that are drawn as nothing: Hangul's fillers, Braille's blank."""
JOINERS = re.compile("[\u034f\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""What changes the letter before it (as emoji have), and is nothing by itself."""
HIDDEN = re.compile("[\u00ad\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")
"""What is not seen in the middle of a line either, and comes along where text is copied from a page."""
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""First bytes by which a file says that it is not UTF-8, as some editors and shells of Windows write it."""


def decoded(data: bytes) -> str:
    """A file's text, in UTF-8 unless its first bytes say otherwise. Raises `UnicodeDecodeError`, also for bare UTF-16."""
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8-sig")
    text = data.decode(encoding)
    if encoding == "utf-8-sig" and 3 * text.count("\0") > len(text):
        raise UnicodeDecodeError(
            "utf-8", data, data.index(0), len(data), "zeros, as in UTF-16 without a mark"
        )
    return text


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """The lines in which there is something to see, `stripped`, each with its number from 1.

    They end where people's editors end them. Other characters that break lines for some programs (U+0085, U+2028, a form
    feed) are part of a line, as they are for `readline`.
    """
    lines = ((number, stripped(line)) for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1))
    return [(number, line) for number, line in lines if line]


def lines_of(text: str) -> list[str]:
    """Those that are no comments."""
    return [line for _, line in numbered_lines(text) if not line.startswith("#")]


def stripped(text: str) -> str:
    """Without white space and invisible characters at both ends; "" where there is nothing to see."""
    seen = [place for place, letter in enumerate(text) if _is_seen(letter)]
    begin = next((place for place in seen if not JOINERS.match(text[place])), None)
    return "" if begin is None else text[begin : seen[-1] + 1]


def _is_seen(letter: str) -> bool:
    return letter not in FILLERS and unicodedata.category(letter) not in INVISIBLE


def hidden(line: str) -> list[str]:
    """The names, as "U+200B", of what is not seen inside a line."""
    return [f"U+{ord(letter):04X}" for letter in dict.fromkeys(HIDDEN.findall(line))]
