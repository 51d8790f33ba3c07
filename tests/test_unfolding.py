"""A picture along its chain: where it is looked at, and what the sheet of it is made of."""

from __future__ import annotations

import torch

from rlr_core.dcot import parse_line
from rlr_core.runs.stage_strip import stage_strip, told_range
from rlr_core.trainer import Unfolding
from rlr_core.trainer.unfolding import places_of


def test_places_are_evenly_apart_and_each_stage_has_one() -> None:
    assert places_of([0] * 20, 8) == [0, 3, 5, 8, 11, 14, 16, 19]
    assert places_of([0, 0, 1], 8) == [0, 1, 2]
    assert 2 in places_of([0, 0, 1, *[2] * 17], 8), "a stage of one step"


def test_the_sheet_has_a_line_for_each_boundary() -> None:
    prompt = parse_line("coarse: a | mid: b | fine: c")
    pictures, stages = torch.zeros(4, 3, 16, 16), (0, 0, 1, 2)
    found = Unfolding(prompt, pictures, (0, 1, 2, 3), stages, (0.1, 0.2, 0.3, 0.4))
    assert found.boundaries == (2, 3)
    assert [(name, told_range(steps)) for name, _, steps in found.spans] == [
        ("coarse", "steps 1 to 2"), ("mid", "step 3"), ("fine", "step 4")
    ]  # fmt: skip
    sheet = stage_strip(found)
    red = [x for x in range(sheet.width) if sheet.getpixel((x, sheet.height - 1)) == (192, 80, 77)]
    assert len({x // 8 for x in red}) == 2, "two lines"
