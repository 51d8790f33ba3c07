"""A picture along its chain: where it is looked at, and what the sheet of it is made of."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

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


def test_the_strip_of_a_checkpoint_ends_with_the_finished_picture(tmp_path) -> None:
    """From the command to the sheet."""
    diffusers = pytest.importorskip("diffusers")
    assert diffusers
    import tiny

    from rlr_core.cli import main
    from rlr_core.config import SamplingConfig
    from rlr_core.models import load_model
    from rlr_core.trainer import painter, unfold

    folder, out = tiny.build_checkpoint(tmp_path / "checkpoint"), tmp_path / "strip.png"
    line = "coarse: red cat | mid: dog | fine: bad dog | at: 0.4, 0.8"
    asked = ["stages", line, "--checkpoint", str(folder), "--out", str(out), "--seed", "3"]
    assert main([*asked, "--set", "sampling.steps=10"]) == 0
    with Image.open(out) as sheet:
        assert sheet.width > 8 * 100
    brush = painter(load_model(str(folder), device="cpu", dtype=torch.float32), SamplingConfig(steps=10))
    prompt = parse_line(line)
    found = unfold(brush, prompt, 3)
    assert found.boundaries == (4, 8) and found.steps[0] == 0 and found.steps[-1] == 9
    finished = brush([prompt], [3])[0]
    first, last = ((found.pictures[k] - finished).abs().max() for k in (0, -1))
    assert last < 5e-3 < 0.1 < first, "but for the little noise that the checkpoint's last level has"
    assert main([*asked, "--set", "sampling.steps=10"]) == 2, "nothing is overwritten"
    assert (
        main(["stages", line, "--checkpoint", str(tmp_path / "gone"), "--out", str(tmp_path / "b.png")]) == 2
    )
