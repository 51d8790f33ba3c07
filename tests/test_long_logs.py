"""The report and the curve of a long run: what is drawn is kept, and thinned, and not the log."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from many_runs import evaluation, event, iteration
from matplotlib.axes import Axes
from PIL import Image

from rlr_core.config import RunConfig, to_toml
from rlr_core.runs import curve, log, report
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.iterations import Iterations, spread
from rlr_core.runs.scoreboard import POINTS
from rlr_core.runs.summary import Summary


def written(folder: Path, events: list[dict[str, Any]]) -> Path:
    path = folder / "events.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in events), encoding="utf-8")
    return path


def peak(path: Path, read: Any) -> int:
    """Bytes."""
    tracemalloc.start()
    try:
        read(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_long_log_is_not_held_in_memory(tmp_path):
    path = written(tmp_path, [iteration(k, k) for k in range(1, 5001)])
    assert peak(path, log.read) > 5000 * 1000, "all of it"
    assert peak(path, Summary.read) < 5000 * 150


def test_each_iteration_takes_as_long_as_the_first_ones():
    """It does not depend on how many there are."""
    table, told, taken = Iterations(), iteration(1, 1), []
    for _ in range(4):
        began = time.process_time()
        for _ in range(10_000):
            table.add(told)
        taken.append(time.process_time() - began)
    assert min(taken[2:]) < 2 * max(taken[:2]), taken


def test_it_has_what_counts_and_nothing_else(tmp_path):
    """Of a run that was resumed twice; the second time to a place before the first."""
    events = [evaluation(1, "before", 0)]
    for begin, end, after in ((0, 6, 4), (3, 5, 3), (2, 7, 9)):
        for done in range(begin + 1, end + 1):
            kind = event(0, "skipped", iteration=done, reason="NaN") if done == 2 else iteration(0, done)
            events.append(kind)
        events.append(event(0, "resumed", after=after))
    events.insert(-1, event(0, "painting", done=1))
    for number, each in enumerate(events, 1):
        each["seq"] = number
    path = written(tmp_path, events)
    counting, summary = log.read(path), Summary.read(path)
    for kind, table in (("iteration", summary.taken), ("skipped", summary.skipped)):
        expected = [each for each in counting if each["type"] == kind]
        assert list(table.numbers) == [each["iteration"] for each in expected] and len(table) > 0
        assert list(table.seconds) == [each["clock"].get("seconds") for each in expected]
    of_part = summary.taken.parts["lookahead"]
    assert len(of_part["norm"]) == len(summary.taken.rewards) == len(summary.taken)
    assert [each["type"] for each in summary.events] == ["evaluation"]


@pytest.mark.parametrize("value", [None, "text", 10**400, [1.0], True])
def test_what_is_no_number_is_none(value):
    table = Iterations()
    table.add(
        {"seq": 1, "iteration": 1, "reward": 0.5, "reward_error": value, "parts": value, "clock": value}
    )
    table.add({"seq": 2, "iteration": 2, "parts": {"new": {"norm": 2.0, "weight": value}, "odd": value}})
    assert math.isnan(table.errors[0]) or value is True
    assert math.isnan(table.parts["new"]["norm"][0]) and table.parts["new"]["norm"][1] == 2
    assert math.isnan(table.seconds[0]) and math.isnan(table.rewards[1])


def test_places_are_spread_evenly():
    assert spread(3, 5) == [0, 1, 2] and spread(0, 5) == []
    chosen = spread(100_001, 11)
    assert chosen[0] == 0 and chosen[-1] == 100_000
    assert {b - a for a, b in pairwise(chosen)} == {10_000}


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> RunDirectory:
    """3,000 iterations with 300 checks and as many previews."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "config.toml").write_text(to_toml(RunConfig(), comments=False), encoding="utf-8")
    Image.new("RGB", (16, 16)).save(folder / "preview.png")
    told = [evaluation(1, "before", 0)]
    for done in range(1, 3001):
        told.append(iteration(0, done))
        if done % 10 == 0:
            told.append(event(0, "preview", iteration=done, prompts=["a"], file="preview.png"))
            told.append({**evaluation(0, "during", done), "prompts": [], "seeds": []})
    told.append(evaluation(0, "after", 3000))
    for number, each in enumerate(told, 1):
        each["seq"] = number
    written(folder, told)
    return RunDirectory(folder)


def test_the_curve_has_no_more_points_than_can_be_seen(long, monkeypatch):
    seen = []
    monkeypatch.setattr(Axes, "set_title", lambda axes, *_, **__: seen.append(axes))
    curve.write_curve(long)
    batches, mean = seen[0].lines
    for line in (batches, mean):
        x = line.get_xdata()
        assert len(x) == curve.POINTS and (x[0], x[-1]) == (1, 3000)
    rewards = [0.3 + done / 1e4 for done in range(1, 3001)]
    assert mean.get_ydata()[-1] == pytest.approx(curve.smoothed(rewards)[-1]), "of all, not of those drawn"


def test_the_page_shows_some_of_the_previews_and_says_how_many_iterations_there_were(long):
    report.write_report(long)
    page = (long.folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<h3>Iteration ") == report.PREVIEWS
    assert "<h3>Iteration 10</h3>" in page and "<h3>Iteration 3000</h3>" in page
    assert "3000 of " in page and "160.0 minutes" in page
    lines = [each.split('"')[0] for each in page.split('<polyline points="')[1:]]
    assert lines and all(len(line.split()) == POINTS for line in lines)
