"""Captions: every script that a font is there for, and no box for what there is none for."""

from __future__ import annotations

import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from rlr_core.runs import captions
from rlr_core.runs.captions import LINES, Lettering
from rlr_core.runs.pictures import grid

CJK = "一只猫"


@pytest.fixture
def only_dejavu(monkeypatch):
    """A system without another font."""
    monkeypatch.setattr(captions, "_others", list)


def caption(prompt: str) -> bytes:
    """The pixels of a caption alone."""
    strip = Image.new("RGB", (300, 16), "#ffffff")
    sheet = grid({"": strip}, [prompt])
    return sheet.crop((64, 24, sheet.width, sheet.height)).tobytes()


@pytest.mark.parametrize("word", ["Häuschen", "Łódź", "Кошка", "γράμματα", "“a” – b"])
def test_latin_greek_and_cyrillic_are_drawn(word, only_dejavu):
    assert Lettering().drawable(word) == word
    letters = {caption(letter) for letter in set(word) - set(" ")}
    assert len(letters) == len(set(word) - set(" ")), "each has a shape of its own, and not that of a box"


def test_a_letter_without_a_font_is_counted_and_no_box(only_dejavu):
    lettering = Lettering()
    assert lettering.drawable(f"a {CJK} here") == "a [3 characters without a font] here"
    assert lettering.drawable("猫") == "[1 character without a font]"
    assert caption(CJK) == caption("[3 characters without a font]") != caption("□□□")


def test_a_box_for_everything_is_no_font():
    assert not any("resort" in file.name.lower() for file in captions._others())


def test_fonts_of_the_system_help_out(monkeypatch):
    """Another font is asked for what DejaVu Sans lacks, and draws that alone."""
    (other,) = (
        file for file in captions._others() if file.name == "DejaVuSerif.ttf" and "mpl-data" in str(file)
    )
    known = captions._characters
    dejavu = captions._dejavu()
    monkeypatch.setattr(captions, "_others", lambda: [other])
    monkeypatch.setattr(
        captions, "_characters", lambda file: known(file) - ({ord("w")} if file == dejavu else set())
    )
    lettering = Lettering()
    assert [run for _, run in lettering._runs("a wow b")] == ["a ", "w", "o", "w ", "b"]
    assert lettering.drawable("a wow b") == "a wow b"


def test_what_is_not_seen_is_not_counted(only_dejavu):
    assert Lettering().drawable("a\U000e0100 b") == "a b"


@pytest.mark.parametrize("text", ["a cat " * 40, "verylongword" * 20, "ж" * 200])
def test_lines_stay_within_their_width(text):
    lettering = Lettering()
    lines = lettering.wrapped(text, 120)
    assert len(lines) == LINES and lines[-1].endswith("…"), "what is cut says so"
    assert all(lettering.length(line) <= 120 for line in lines)


def test_nothing_is_lost_where_it_fits():
    assert " ".join(Lettering().wrapped("a small red cat on a mat", 90)) == "a small red cat on a mat"
    assert Lettering().wrapped("", 90) == [""]


def test_without_matplotlib_letters_are_drawn(monkeypatch):
    monkeypatch.setattr(captions, "_dejavu", lambda: None)
    assert Lettering().drawable(f"Häuschen {CJK}") == "Häuschen [3 characters without a font]"
    assert caption("Häuschen") != caption("")
