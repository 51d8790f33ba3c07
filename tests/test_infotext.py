"""A picture's text of how it was made, as A1111 and its forks write it, in a new run."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("gradio")

from rlr_core.dcot import parse_line
from rlr_core.errors import RLRError
from ui.form import Filled, compose
from ui.infotext import Infotext, read_infotext

TOLD = """a red fox, (wet fur:1.2),
  soft light
Negative prompt: blurry,
[bad]
Steps: 20, Sampler: Euler a, CFG scale: 7, Size: 512x768, Hires prompt: "x, Size: 8x8", Version: v1.10.1"""


def test_prompt_negative_prompt_and_size_are_read():
    assert read_infotext(TOLD) == Infotext(
        "a red fox, (wet fur:1.2), soft light", "blurry, [bad]", "[512, 768]"
    )
    assert read_infotext("a fox\r\nSteps: 1, Sampler: Euler, Size: 64x64") == Infotext("a fox", "", "64")
    assert read_infotext('a fox\nSteps: 1, Hires prompt: "x, Size: 8x8"').size == ""


@pytest.mark.parametrize(
    "prompt", ["coarse: a hand", "# a comment", "a cat --w 5 --n dog", "a | negative: b"]
)
def test_a_prompt_that_looks_like_a_field_stays_a_prompt(prompt):
    line = parse_line(read_infotext(f"{prompt}\nSteps: 1, Size: 64x64").prompt)
    assert line.prompts == (prompt,) and line.negatives == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not say how it was made"),
        ("a fox without settings", "how it was made: a fox without"),
        ("\nNegative prompt: blurry\nSteps: 3, Size: 8x8", "an empty prompt"),
    ],
)
def test_what_tells_nothing_is_refused(text, words):
    with pytest.raises(RLRError, match=words):
        read_infotext(text)


def test_a_config_takes_what_was_read():
    made = read_infotext(TOLD)
    advanced: dict[str, Any] = {"prompts.negative": made.negative, "sampling.size": made.size}
    config = compose(Filled(prompts=made.prompt, advanced=advanced), "rewards")
    assert config.sampling.sizes == [(512, 768)] and config.prompts.negative == "blurry, [bad]"
    assert config.prompts.train == [made.prompt]
