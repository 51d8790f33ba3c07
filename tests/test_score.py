"""`rlr score`, and the report's table of every score."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("diffusers")

import fuzz

from rlr_core.cli import main
from rlr_core.config import from_dict
from rlr_core.runs.scoreboard import _decimals, alarm_banner, scoreboard
from rlr_core.runs.sparkline import sparkline
from rlr_core.runs.summary import Summary, short

REWARD = """
def length(images, prompts):
    return [len(prompt) for prompt in prompts]
"""


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A folder of three pictures, the last of another shape, and a note."""
    (tmp_path / "bilder ü").mkdir()
    for k, size in enumerate([(16, 16), (16, 16), (24, 8)]):
        Image.effect_noise(size, 40.0 * k).convert("RGB").save(tmp_path / "bilder ü" / f"{k}.png")
    (tmp_path / "bilder ü" / "notes.txt").write_text("no picture", encoding="utf-8")
    (tmp_path / "reward.py").write_text(REWARD, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_several_rewards_and_statistics(desk, capsys):
    rewards = ["--reward", "sharpness", "--reward", "reward.py:length"]
    assert main(["score", "bilder ü", "--prompt", "a cat", *rewards, "--statistics"]) == 0
    head, *rows, mean = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "sharpness", "reward.py:length", "saturation", "edge", "density", "entropy", "diversity", "picture"
    ]  # fmt: skip
    assert [Path(row.split("  ")[-1]).name for row in rows] == ["0.png", "1.png", "2.png"]
    assert [row.split()[1] for row in rows] == ["5.0000"] * 3 and mean.endswith("mean of 3")
    assert float(rows[0].split()[0]) < float(rows[1].split()[0]), "the first is plain"
    assert rows[0].split()[5] == "–", "pictures of different sizes have no diversity"


def test_a_prompt_for_each_picture_and_json(desk, capsys):
    (desk / "prompts.txt").write_text("a\nbb\nccc\n", encoding="utf-8")
    assert (
        main(["score", "bilder ü", "--prompts", "prompts.txt", "--reward", "reward.py:length", "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert [row["reward.py:length"] for row in told] == [1, 2, 3]
    assert Path(told[2]["picture"]) == Path("bilder ü/2.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty", "--prompt", "a"], "no pictures in the folder"),
        (["bilder ü", "--prompts", "one.txt"], "1 prompts in one.txt for 3 pictures"),
        (["bilder ü", "--prompts", "none.txt"], "none.txt cannot be read"),
        (["bilder ü/notes.txt", "--prompt", "a"], "notes.txt cannot be read"),
        (["bilder ü", "--prompt", "a", "--reward", "sharpnes"], "did you mean 'sharpness'"),
    ],
)
def test_bad_input(arguments, message, desk, capsys):
    (desk / "empty").mkdir()
    (desk / "one.txt").write_text("a\n", encoding="utf-8")
    reward = [] if "--reward" in arguments else ["--reward", "reward.py:length"]
    assert main(["score", *arguments, *reward]) == 2
    error = capsys.readouterr().err
    assert message in error and "what to do:" in error


def test_memory_does_not_grow_with_the_pictures(desk):
    """All together would take 1 GB, and a table of every pixel's grey level as much for each."""
    Image.new("RGB", (2000, 1000), "#336699").save(desk / "large.png")
    arguments = [
        "score",
        *["large.png"] * 40,
        "--prompt",
        "a",
        "--reward",
        "reward.py:length",
        "--statistics",
    ]
    began = fuzz.peak()
    assert main(arguments) == 0
    assert fuzz.peak() - began < fuzz.MEMORY


# the report's table


def evaluation(when: str, iteration: int, shift: float, count: int) -> dict:
    numbers = [0.1 * k + shift * (1 + 0.01 * k) for k in range(count)]
    return {
        "type": "evaluation", "when": when, "iteration": iteration, "scores": numbers, "rewards": numbers,
        "parts": {"/far/away/my.py:red": numbers}, "watched": {"sharpness": numbers},
        "statistics": {"entropy": numbers, "diversity": [None] * count},
    }  # fmt: skip


@pytest.fixture
def summary(tmp_path) -> Summary:
    events = [
        evaluation("before", 0, 0.0, 6),
        evaluation("during", 5, 0.5, 4),
        evaluation("after", 10, 1.0, 6),
    ]
    lines = [json.dumps({"seq": k, **event}) + "\n" for k, event in enumerate(events, 1)]
    (tmp_path / "events.jsonl").write_text("".join(lines), encoding="utf-8")
    return Summary.read(tmp_path / "events.jsonl")


def test_every_score_has_its_comparison_and_its_curve(summary):
    assert [(s.group, s.name) for s in summary.series] == [
        ("trained", ""), ("held-out", ""), ("part", "/far/away/my.py:red"), ("watched", "sharpness"),
        ("statistic", "entropy"),
    ]  # fmt: skip
    part = summary.series[2]
    assert part.comparison.pairs == 6 and part.comparison.difference == pytest.approx(1.025)
    assert [point[0] for point in part.points] == [0, 5]
    assert part.points[0][1:] == (pytest.approx(0.15), 0.0), "of the pairs that every check has"
    assert part.points[1][1] == pytest.approx(0.15 + 0.5 * 1.015) and part.points[1][2] > 0


def test_the_table_names_the_parts_of_a_mix(summary):
    config = from_dict({"reward": {"name": "mix", "mix": {"/far/away/my.py:red": 1.0}}})
    table = scoreboard(summary.series, config)
    assert "my.py:red" in table and "/far/away" not in table.replace("/far/away/my.py", "")
    assert table.count("<svg") == 5 and table.count("<tr>") == 10, "five rows under five titles"
    assert "+1.025 ± 0.015" in table and "nan" not in table


@pytest.mark.parametrize(
    ("half_width", "decimals"),
    [(102.0, 0), (13.0, 0), (1.3, 1), (0.17, 2), (0.017, 3), (1e-9, 6), (0.0, 3), (float("nan"), 3)],
)
def test_decimals_follow_the_uncertainty(half_width, decimals):
    assert _decimals(half_width) == decimals


def test_the_banner():
    config = from_dict({"alarm": {"action": "rollback"}})
    alarm = {"iteration": 20, "message": "the reward rose, but x < y", "best": 10}
    assert alarm_banner([], config) == ""
    banner = alarm_banner([alarm], config)
    assert "At iteration 20" in banner and "x &lt; y" in banner and "of iteration 10" in banner


def test_a_sparkline_stays_within_its_frame():
    assert sparkline([(0, 1.0, 0.0)], "one point") == ""
    drawn = sparkline([(0, 1.0, 0.0), (5, 3.0, 0.5), (10, -2.0, 1.0)], "three")
    numbers = [float(n) for pair in re.findall(r'points="([^"]+)"', drawn) for n in re.split("[ ,]", pair)]
    assert all(0 <= x <= 180 for x in numbers[::2]) and all(0 <= y <= 36 for y in numbers[1::2])
    assert sparkline([(0, 1.0, 0.0), (1, 1.0, 0.0)], "level"), "nothing is divided by 0"


def test_names_of_rewards_are_short():
    assert short("/a/b/my.py:red") == "my.py:red" and short("sharpness") == "sharpness"
