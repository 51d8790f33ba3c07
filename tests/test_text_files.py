"""Prompts files are lines as people see them: where they end, what is blank, and what an editor of any system has written."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from rlr_core.dcot import parse_line
from rlr_core.dcot.files import read_lines
from rlr_core.dcot.texts import lines_of, stripped
from rlr_core.dcot.wildcards import expanded
from rlr_core.errors import PromptError
from rlr_core.trainer.prompts import read_prompts


def saved(folder: Path, text: str, encoding: str = "utf-8", name: str = "prompts.txt") -> Path:
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["Unix", "Windows", "old Mac"])
def test_lines_end_as_editors_end_them(end, tmp_path):
    file = saved(tmp_path, end.join(["a cat", "", "a dog", ""]))
    assert read_lines(file) == [(1, "a cat"), (3, "a dog")]


def test_line_ends_of_two_systems_in_one_file(tmp_path):
    assert read_lines(saved(tmp_path, "a\r\nb\nc\rd")) == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]


SPLIT_BY_OTHERS = ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
"""What Python's `str.splitlines` breaks lines at, and editors do not."""


@pytest.mark.parametrize("letter", SPLIT_BY_OTHERS, ids=ascii)
def test_what_only_some_programs_break_lines_at_is_a_part_of_the_prompt(letter, tmp_path):
    text = f"a cat{letter}on a mat"
    assert len(text.splitlines()) == 2
    assert read_lines(saved(tmp_path, f"{text}\nb")) == [(1, text), (2, "b")] and lines_of(text) == [text]
    assert parse_line(text).prompts == (text,)


@pytest.mark.parametrize(
    "letters",
    [
        " \t", "\xa0", "\u3000", "\u200b", "\ufeff", "\u2028", "\x85", "\u200e\u200f", "\u2800", "\u3164", "\uffa0\u115f",
        "\ufe0f", "\xad",
    ],
    ids=ascii,
)  # fmt: skip
def test_a_line_in_which_nothing_is_seen_is_blank(letters, tmp_path):
    file = saved(tmp_path, f"a cat\n{letters}\n{letters}a dog{letters}\n{letters}# a comment\n")
    found = read_lines(file)
    assert [number for number, _ in found] == [1, 3] and stripped(letters) == ""
    assert found[1][1].rstrip("\ufe0f") == "a dog"
    with pytest.raises(PromptError, match="is empty"):
        read_lines(saved(tmp_path, f"{letters}\n{letters}"))


def test_what_belongs_to_a_letter_stays(tmp_path):
    """Variation selectors and joiners of emoji, Persian's non-joiner, accents that are letters of their own."""
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    lines = [
        "a heart \u2764\ufe0f",
        f"a family {family}",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "e\u0301",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_prompts(str(saved(tmp_path, "\n".join(lines)))) == lines


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_the_first_bytes_tell_the_encoding(encoding, tmp_path):
    assert read_prompts(str(saved(tmp_path, "ein grünes Quadrat\r\n猫", encoding))) == [
        "ein grünes Quadrat",
        "猫",
    ]


@pytest.mark.parametrize(
    ("encoding", "reason"), [("utf-16-le", "zeros"), ("utf-16-be", "zeros"), ("cp1252", "byte 9")]
)
def test_an_encoding_that_is_not_told_is_refused_by_name(encoding, reason, tmp_path):
    """The zeros of UTF-16 are good UTF-8, and would be in every prompt."""
    with pytest.raises(PromptError, match=rf"is not UTF-8 \(.*{reason}"):
        read_lines(saved(tmp_path, "a square \xfc" if encoding == "cp1252" else "a square", encoding))


def test_what_is_hidden_inside_a_line_is_said(tmp_path):
    with pytest.warns(UserWarning, match=r"1 of its 2 prompts have invisible .* U\+200B in line 3"):
        assert read_prompts(str(saved(tmp_path, "a\n\nred\u200bcat"))) == ["a", "red\u200bcat"]


@pytest.mark.parametrize("blank", ["", "\u200b", "\u3164", "\xa0"], ids=ascii)
def test_a_stage_in_which_nothing_is_seen_is_empty(blank):
    with pytest.raises(PromptError, match=r"empty|no prompt|without"):
        parse_line(f"coarse: {blank} | mid: a cat")


def test_wildcards_are_lines_as_prompts_are(tmp_path):
    pytest.importorskip("dynamicprompts")
    saved(tmp_path, "\ufeffred\r\n\u200b\r\n# a comment\r\nblue\u3164\r\n", name="colour.txt")
    saved(tmp_path, "grün\n", "utf-16", name="green.txt")
    drawn = {text for seed in range(8) for text in expanded("a __colour__ cat", tmp_path, 4, seed)}
    assert drawn == {"a red cat", "a blue cat"}
    assert expanded("__green__", tmp_path, 1, 0) == ["grün"]


def test_wildcards_that_are_not_utf8_are_refused_and_nothing_is_lost(tmp_path):
    """The library itself would make "grn" of it."""
    pytest.importorskip("dynamicprompts")
    file = saved(tmp_path, "grün\n", "cp1252", name="colour.txt")
    with pytest.raises(PromptError, match=str(file)):
        expanded("a __colour__ cat", tmp_path, 4, 0)


def test_lines_of_a_box_are_those_of_a_file():
    form = pytest.importorskip("ui.form")
    assert form.lines_of("a\u2028b\r\n\u200b\n# c\nd") == ["a\u2028b", "d"]
