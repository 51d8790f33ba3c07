"""The result first: whatever becomes of scores, pictures and the report, a run that was trained to its end has its LoRA."""

from __future__ import annotations

import html
import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign
import pytest
import runs
import torch
from torch import Tensor

from rlr_core.cli.progress import Narrator
from rlr_core.errors import RewardError, StorageError
from rlr_core.rewards import FunctionReward
from rlr_core.runs import gallery, log, recorder, resume, start
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.summary import Comparison, Summary
from rlr_core.trainer import Evaluation, Iteration, Materials, Rewards, Warned


def red(images: Tensor, prompts: list[str]) -> Tensor:
    return images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))


def contrast(images: Tensor, prompts: list[str]) -> Tensor:
    return images.flatten(1).std(1)


def materials(held_out: Callable[..., Any] = contrast) -> Materials:
    rewards = Rewards(FunctionReward("red", True, red), FunctionReward("held out", False, held_out))
    return Materials(model=foreign.ForeignModel(), rewards=rewards)


def quiet(event: Any) -> None:
    pass


def run(folder: Path, listen: Any = quiet, held_out: Callable[..., Any] = contrast, **settings: Any) -> Path:
    config = foreign.foreign_config("named by the objects", **settings)
    return start(config, folder, listen, materials=materials(held_out)).folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("reference") / "run")


def warnings_of(folder: Path) -> list[str]:
    return [event["message"] for event in log.read(folder / "events.jsonl") if event["type"] == "warning"]


def assert_finished(folder: Path, reference: Path) -> None:
    """With the very LoRA that a run without trouble has."""
    assert RunDirectory(folder).state().state == "finished"
    runs.assert_same(runs.lora(folder)[0], runs.lora(reference)[0])


# pictures and the report


def at_iteration(number: int, act: Callable[[], Any]) -> Any:
    def listen(event: Any) -> None:
        if isinstance(event, Iteration) and event.iteration == number:
            act()

    return listen


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"no picture")])
def test_without_the_pictures_from_before(damage, reference, tmp_path, capsys):
    folder, told = tmp_path / "run", []
    narrator = Narrator(foreign.foreign_config("red"))

    def listen(event: Any) -> None:
        told.append(event)
        narrator(event)
        at_iteration(3, lambda: damage(folder / "before.png"))(event)

    run(folder, listen)
    assert_finished(folder, reference)
    (warning,) = warnings_of(folder)
    assert warning.startswith("before_after.png could not be made: ")
    after = next(k for k, event in enumerate(told) if isinstance(event, Evaluation) and event.when == "after")
    assert told[after + 1] == Warned(warning), "told when the event is in the log"
    assert f"WARNING: {warning}." in capsys.readouterr().out
    assert html.escape(warning) in (folder / "report.html").read_text(encoding="utf-8")


def test_without_matplotlib(reference, tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    folder = run(tmp_path / "run")
    assert_finished(folder, reference)
    (warning,) = warnings_of(folder)
    assert warning.startswith("reward.png could not be made: ModuleNotFoundError")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Did the pictures get better?" in page and html.escape(warning) in page


@pytest.mark.parametrize(
    ("what", "lost"),
    [
        ("save_png", {"previews", "before.png", "after.png", "before_after.png", "rlr-lora.preview.png"}),
        ("strip", {"previews", "before.png", "after.png", "before_after.png"}),
        ("to_picture", {"rlr-lora.preview.png"}),
        ("write_curve", {"reward.png"}),
        ("write_report", {"report.html"}),
        ("write_card", {"rlr-lora.json", "rlr-lora-best.json"}),
    ],
)
def test_what_cannot_be_made_is_said_and_nothing_else(what, lost, reference, tmp_path, monkeypatch):
    def broken(*_: Any) -> None:
        raise RuntimeError("it cannot be made")

    monkeypatch.setattr(recorder if what == "write_card" else gallery, what, broken)
    folder = run(tmp_path / "run")
    assert_finished(folder, reference)
    assert {path.name for path in reference.iterdir()} - {path.name for path in folder.iterdir()} == lost
    assert warnings_of(folder) and "it cannot be made" in warnings_of(folder)[0]
    assert [line for line in runs.told(folder) if '"warning"' not in line] == runs.told(reference)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize(
    "victim", ["previews/000004.png", "rlr-lora.preview.png", "report.html", "rlr-lora.json"]
)
def test_a_disk_that_fills_up_while_something_is_drawn(victim, reference, tmp_path):
    """The run goes on to its next checkpoint; were that one not to fit, either, the last one would stand."""
    folder = tmp_path / "run"
    path = folder / victim
    obstacle = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def fill(event: Any) -> None:
        if getattr(event, "iteration", 0) == 3 and not obstacle.is_symlink():
            obstacle.symlink_to("/dev/full")

    run(folder, fill)
    assert_finished(folder, reference)
    warning = warnings_of(folder)[0]
    assert victim in warning and "No space left on device" in warning and "\n" not in warning
    runs.assert_same(runs.newest(folder), runs.newest(reference))


# the score at the end


def test_a_score_that_cannot_be_measured_does_not_keep_the_lora(reference, tmp_path):
    """Not on the first attempt, and not on the next ones; when it can be, the run is whole."""
    folder, told, calls = tmp_path / "run", [], []

    def fails(images: Tensor, prompts: list[str]) -> Tensor:
        calls.append(len(images))
        if (folder / "rlr-lora.safetensors").exists():
            raise OSError("the server is down")
        return contrast(images, prompts)

    with pytest.raises(RewardError, match="the server is down"):
        run(folder, told.append, fails)
    assert told[-1] == Warned("rlr-lora.safetensors is written, but its score could not be measured")
    runs.assert_same(runs.lora(folder)[0], runs.lora(reference)[0])
    (folder / "rlr-lora.safetensors").unlink()
    with pytest.raises(RewardError, match="the server is down"):
        resume(folder, quiet, materials=materials(fails))
    assert RunDirectory(folder).state().state == "failed"
    runs.assert_same(runs.lora(folder)[0], runs.lora(reference)[0])
    resume(folder, quiet, materials=materials())
    runs.assert_same_run(folder, reference)
    assert "rlr.held_out_after" in runs.lora(folder)[1]


def test_a_lora_that_gets_no_scores_stays(reference, tmp_path, monkeypatch):
    """It is written again when it is scored: a disk that is full by then does not take it away."""
    export, calls = recorder.export, []

    def full(file: Path, *arguments: Any) -> None:
        calls.append(file)
        if calls.count(file) == 2 and file.stem == "rlr-lora":
            raise StorageError("the disk is full", "room", "make some")
        export(file, *arguments)

    monkeypatch.setattr(recorder, "export", full)
    folder = run(tmp_path / "run")
    assert_finished(folder, reference)
    assert warnings_of(folder) == ["the scores in rlr-lora.safetensors could not be made: the disk is full"]
    assert "rlr.held_out_after" not in runs.lora(folder)[1]


def test_a_log_that_cannot_be_read_does_not_keep_the_lora(reference, tmp_path, monkeypatch):
    def unreadable(path: Path) -> None:
        raise StorageError(f"{path} cannot be read", "a log", "mend it")

    monkeypatch.setattr(Summary, "read", unreadable)
    folder = run(tmp_path / "run")
    assert_finished(folder, reference)


# NaN


@pytest.mark.parametrize(
    ("value", "every", "action"),
    [
        (math.nan, 1, "rollback"),
        (math.nan, 4, "warn"),
        (math.inf, 1, "warn"),
        (math.inf, 4, "rollback"),
        (-math.inf, 4, "warn"),
    ],
)
def test_scores_that_are_none(value, every, action, reference, tmp_path):
    """All of them, or one of four: comparisons have the others, and say how many are left out."""

    def scores(images: Tensor, prompts: list[str]) -> Tensor:
        found = contrast(images, prompts)
        found[::every] = value
        return found

    folder = run(tmp_path / "run", held_out=scores, alarm__action=action)
    assert_finished(folder, reference)
    compared = Summary.read(folder / "events.jsonl").held_out
    page = re.sub('base64,[^"]*', "", (folder / "report.html").read_text(encoding="utf-8"))
    assert not re.search(r"\b(nan|NaN|None)\b", page.replace("NaN or infinite", ""))
    assert f"{4 // every} of 4 held-out scores before training are NaN or infinite" in warnings_of(folder)[0]
    if every == 1:
        assert compared is None and "No pair of pictures has a finite held-out score" in page
        assert "rlr.held_out_after" not in runs.lora(folder)[1]
    else:
        assert compared and (compared.pairs, compared.unscored) == (3, 1)
        assert "3 pairs, 1 more without a score" in page and "3 pairs, 1 more" in str(compared)
        assert math.isfinite(float(runs.lora(folder)[1]["rlr.held_out_after"]))
    assert not (folder / "rlr-lora-best.safetensors").exists(), (
        "NaN is no best score, and neither is infinity"
    )


def test_pairs_without_a_score_are_left_out():
    compared = Comparison.of([0.0, None, 1.0, 2.0], [1.0, 5.0, None, 4.0])
    assert compared == Comparison(1.0, 2.5, pytest.approx(1.96 * math.sqrt(0.5) / math.sqrt(2)), 2, 2)
    assert Comparison.of([None, 1.0], [1.0, None]) is None


def test_a_reward_without_numbers_has_a_curve(tmp_path):
    """The mean of finite rewards may still be too large for a number."""
    events = log.EventLog(tmp_path / "events.jsonl")
    for iteration, reward in enumerate((0.5, math.inf, 0.7), 1):
        events.append("iteration", iteration=iteration, reward=reward, reward_error=math.nan)
    gallery.write_curve(RunDirectory(tmp_path))
    assert (tmp_path / "reward.png").stat().st_size > 1000


def test_logs_hold_what_they_held(reference):
    """The events of a run in which nothing went wrong have no warnings, and JSON no NaN."""
    text = (reference / "events.jsonl").read_text(encoding="utf-8")
    assert not warnings_of(reference) and "NaN" not in text
    assert json.loads(text.splitlines()[-1])["type"] == "finished"
    assert torch.tensor([1.0]).isfinite().all()
