"""The run's folder: who holds it, what it tells, and what happens when the disk is full."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

import runs
import torch
from matplotlib.axes import Axes
from PIL import Image

from rlr_core import storage
from rlr_core.config import load, to_toml
from rlr_core.errors import CheckpointError, ConfigError, RLRError, RunError, StorageError
from rlr_core.families import SD1
from rlr_core.runs import curve, export, follow, list_runs, log, runner
from rlr_core.runs.directory import RunDirectory, free_folder
from rlr_core.runs.overview import Facts
from rlr_core.runs.pictures import read_picture
from rlr_core.runs.requests import request_stop
from rlr_core.runs.self_contained import self_contained
from rlr_core.runs.summary import Comparison, Summary
from rlr_core.storage import user_path


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="module")
def finished(workshop, tmp_path_factory) -> Path:
    return start(workshop, tmp_path_factory.mktemp("root") / "run")


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def start(workshop: Path, folder: Path, **overrides) -> Path:
    return runner.start(runs.config(workshop, **overrides), folder, lambda event: None).folder


# what is there in the end


def test_a_finished_run_has_everything(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        "after.png", "before.png", "before_after.png", "checkpoints", "config.toml", "events.jsonl",
        "overview.json", "previews", "report.html", "reward.png", "rlr-lora-best.json", "rlr-lora-best.safetensors",
        "rlr-lora.json", "rlr-lora.preview.png", "rlr-lora.safetensors", "run.id", "run.lock", "worker.json",
    ]  # fmt: skip
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["000004.pt", "000006.pt"]
    assert len(list((finished / "previews").iterdir())) == 4
    state = RunDirectory(finished).state()
    assert (state.state, state.iteration, state.iterations) == ("finished", 6, 6)
    assert state.first is not None and state.latest is not None and state.message == ""


def test_events_are_numbered_and_parse(finished):
    lines = (finished / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert json.loads(lines[-1])["type"] == "finished"


def test_the_lora_says_what_it_is(finished):
    _, metadata = runs.lora(finished)
    expected = {"rlr.estimator": "rlr", "rlr.iterations": "6", "ss_sd_model_name": "checkpoint"}
    assert expected.items() <= metadata.items()
    assert metadata["ss_network_module"] == "networks.lora"
    assert json.loads(metadata["rlr.prompts"]) == ["a b", "c d", "e f"]
    text = to_toml(RunDirectory(finished).config, comments=False)
    assert metadata["rlr.config_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    scores = Summary.read(finished / "events.jsonl")
    for name, comparison in (("reward", scores.trained), ("held_out", scores.held_out)):
        for when in ("before", "after"):
            assert float(metadata[f"rlr.{name}_{when}"]) == pytest.approx(getattr(comparison, when), rel=1e-4)


def test_the_card_of_a_demos_lora_says_that_no_host_has_its_checkpoint(workshop, tmp_path):
    """Or else it lies among a webui's LoRAs as if it did something there."""
    told = {}
    for checkpoint in ("embedded", str(workshop / "checkpoint")):
        settings = runs.config(workshop, model__checkpoint=checkpoint)
        origin = export.Origin(settings, SD1.lora, {}, "red", "bright", [])
        export.write_card(tmp_path / "a.safetensors", origin, Facts())
        told[checkpoint] = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["description"]
    demo, other = told.values()
    assert demo == other + " Only for RLR's built-in demo checkpoint."


def test_the_lora_has_a_card_for_hosts(finished):
    card = json.loads((finished / "rlr-lora.json").read_text(encoding="utf-8"))
    assert card["sd version"] == "SD1" and card["preferred weight"] == 1
    assert "Trained towards the reward" in card["description"] and "held-out score" in card["description"]
    assert read_picture(finished / "rlr-lora.preview.png").shape == (3, 512, 512)
    with Image.open(finished / "rlr-lora.preview.png") as picture:
        told = picture.info
    config = RunDirectory(finished).config
    name = user_path(config.model.checkpoint).name
    prompt, rest = told["parameters"].split(" <lora:rlr-lora:1>\n")
    assert prompt in config.prompts.held_out and f"Model: {name}" in rest and "Lora hashes" in rest
    nodes = json.loads(told["prompt"])
    assert nodes["checkpoint"]["inputs"]["ckpt_name"] == name
    assert nodes["LoRA"]["inputs"]["lora_name"] == "rlr-lora.safetensors"


def test_a_lora_without_effect_is_not_exported_and_nothing_is_lost(workshop, tmp_path):
    with pytest.raises(CheckpointError, match="nothing was learned"):
        start(workshop, tmp_path / "run", training__learning_rate=0.0, training__iterations=2)
    state = RunDirectory(tmp_path / "run").state()
    assert state.state == "failed" and "training.learning_rate is 0" in state.message
    assert (tmp_path / "run" / "report.html").is_file() and not list((tmp_path / "run").glob("*.safetensors"))
    assert list((tmp_path / "run" / "checkpoints").iterdir())


def test_the_config_in_the_folder_needs_nothing_else(workshop, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("a b\nc d\n", encoding="utf-8")
    monkeypatch.chdir(workshop)
    config = runs.config(
        workshop, model__checkpoint="checkpoint", prompts__file=str(tmp_path / "prompts.txt")
    )
    config = self_contained(config)
    assert config.model.checkpoint == str(workshop / "checkpoint")
    assert config.prompts.train == ["a b", "c d", "e f", "a b", "c d"] and config.prompts.file == ""
    assert self_contained(runs.config(workshop, reward__name="reward.py:red")).reward.name == str(
        workshop / "reward.py:red"
    )
    (workshop / "embedded").mkdir()
    settings = [f"reward.folder={workshop / 'models' / 'rewards'}", "reward.held_out=embedded-held-out"]
    assert self_contained(load()) == load(None, settings), "names are not paths"


def test_a_run_keeps_the_lora_that_it_goes_on_from(workshop, finished, tmp_path):
    """It is resumed, and its copy in another folder too, when the file is gone and when another one is in its place."""
    source, folder = tmp_path / "mine.safetensors", tmp_path / "run"
    shutil.copy(finished / "rlr-lora.safetensors", source)
    with pytest.warns(UserWarning, match="going on from"):
        start(workshop, folder, lora__start=str(source))
    named = load(folder / "config.toml").lora.start
    assert named == str(folder / "start" / "mine.safetensors"), "the file alone can be trained by, too"
    reference = folder.rename(tmp_path / "reference")
    copied = RunDirectory(reference).config.lora.start
    assert Path(copied) == reference / "start" / "mine.safetensors", "a run that is moved finds it"
    assert Path(copied).read_bytes() == source.read_bytes()

    def crash(event) -> None:
        if getattr(event, "iteration", 0) == 3:
            raise MemoryError

    with pytest.raises(MemoryError), pytest.warns(UserWarning, match="going on from"):
        runner.start(runs.config(workshop, lora__start=str(source)), folder, crash)
    clone = Path(shutil.copytree(folder, tmp_path / "clone"))
    source.write_bytes(b"another one")
    with pytest.warns(UserWarning, match=r"going on from .*run/start/mine\.safetensors"):
        runner.resume(folder, lambda event: None)
    runs.assert_same_run(folder, reference)
    source.unlink()
    shutil.rmtree(folder)
    with pytest.warns(UserWarning, match="going on from .*clone"):
        runner.resume(clone, lambda event: None)
    assert runs.told(clone) == runs.told(reference)
    runs.assert_same(runs.lora(clone)[0], runs.lora(reference)[0])


def of_the_process() -> dict[str, Any]:
    """What a host that trains in its own process shares with the run."""
    return {
        "threads": torch.get_num_threads(),
        "type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "functions": dict(vars(torch.nn.functional)),
        "environment": dict(os.environ),
        "warnings": (warnings.showwarning, list(warnings.filters)),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "folder": Path.cwd(),
        "path": list(sys.path),
        "random": (random.getstate(), torch.get_rng_state().tolist()),
    }


def test_a_run_leaves_its_process_as_it_was(workshop, finished, tmp_path):
    """`finished` has loaded the libraries, which have ways of their own."""
    settings = {"training__iterations": 1, "memory__plan": "auto", "memory__budget": 1.0, "model__threads": 2}
    before = of_the_process()
    start(workshop, tmp_path / "run", **settings)
    assert of_the_process() == before


# the report


def test_the_report_opens_anywhere(finished):
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script|(src|srcset)=\"(?!data:)|href=|@import", page)
    assert page.count("data:image/png;base64,") == 2 * 3 + 4 + 2 * 4, "pairs, curves, previews"
    for text in (
        "Did the pictures get better?",
        "3 pairs",
        "first order",
        "half order",
        "rlr-lora.safetensors",
    ):
        assert text in page
    words = re.sub(r"base64,[A-Za-z0-9+/=]*", "", page)  # pictures may spell anything
    assert "NaN" not in words and "None" not in words and "$" not in words


def test_the_grid_has_both_rows(finished):
    with Image.open(finished / "before_after.png") as grid, Image.open(finished / "before.png") as strip:
        assert grid.width > strip.width and grid.height > 2 * strip.height


def test_a_run_without_evaluations_has_a_report(workshop, tmp_path):
    settings = {"output__evaluation": 0, "output__preview_every": 0, "training__iterations": 2}
    folder = start(workshop, tmp_path / "run", **settings)
    assert "no evaluation" in (folder / "report.html").read_text(encoding="utf-8")
    assert not (folder / "before_after.png").exists()
    assert Summary.read(folder / "events.jsonl").held_out is None


def test_a_batch_of_one_has_a_report(workshop, tmp_path):
    settings = {"training__batch_size": 1, "training__prompts_per_batch": 1, "estimator__chunk": 1}
    folder = start(workshop, tmp_path / "run", training__iterations=2, **settings)
    assert "nan" not in (folder / "events.jsonl").read_text(encoding="utf-8").lower()
    assert (folder / "report.html").exists()


def test_the_confidence_interval():
    compared = Comparison.of([0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0])
    assert compared.difference == 2.5 and compared.pairs == 4
    assert compared.half_width == pytest.approx(1.96 * math.sqrt(5 / 3) / 2)
    assert compared.verdict == "got better"
    assert Comparison.of([1.0, 2.0], [0.0, 1.0]).verdict == "got worse"
    assert Comparison.of([0.0, 0.0], [1.0, -1.5]).verdict == "did not clearly change"
    assert Comparison.of([0.0], [1.0]).verdict == "did not clearly change", "one pair shows nothing"
    assert str(compared).startswith("0.000 → 2.500  (+2.500 ± 1.265, 95% confidence, 4 pairs)")


def test_iterations_are_integers(finished, monkeypatch):
    seen = []
    monkeypatch.setattr(Axes, "set_title", lambda axes, *_, **__: seen.append(axes))
    curve.reward_curve(Summary.read(finished / "events.jsonl"))
    assert len(ticks := seen[0].get_xticks()) > 2 and all(tick == round(tick) for tick in ticks)


def test_previews_have_no_score(finished):
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<h3>(.*?)</h3>", page) == [f"Iteration {number}" for number in (0, 2, 4, 6)]


def evaluations(*means: tuple[str, int, float, int]) -> list[dict[str, Any]]:
    """Of (when, iteration, mean, pairs); scores about the mean that differ from pair to pair."""
    return [
        {
            "type": "evaluation",
            "when": when,
            "iteration": iteration,
            "scores": [mean + 0.01 * (k % 3) for k in range(pairs)],
            "rewards": [mean] * pairs,
            "parts": {},
            "watched": {},
            "statistics": {},
        }
        for when, iteration, mean, pairs in means
    ]


def summary_of(tmp_path: Path, events: list[dict[str, Any]]) -> Summary:
    made = log.EventLog(tmp_path / "events.jsonl")
    for event in events:
        made.append(event.pop("type"), **event)
    return Summary.read(tmp_path / "events.jsonl")


def test_a_run_that_got_worse_points_to_the_better_lora(tmp_path):
    """Compared with the run's own on the pairs that both have."""
    checks = evaluations(
        ("before", 0, 0.5, 6), ("during", 2, 0.7, 4), ("during", 4, 0.3, 6), ("after", 4, 0.3, 6)
    )
    best = {"type": "best", "file": "a-best.safetensors", "iteration": 2, "score": 0.7, "pairs": 4}
    better = summary_of(tmp_path, [*checks[:2], best, *checks[2:]]).better
    assert better and (better.file, better.iteration) == ("a-best.safetensors", 2)
    assert better.compared.difference == pytest.approx(0.4) and better.compared.pairs == 4
    assert "on the same 4 pairs" in str(better)


@pytest.mark.parametrize(("end", "best"), [(0.8, 0.7), (0.3, 0.2)])
def test_where_no_lora_is_better_none_is_named(end, best, tmp_path):
    checks = evaluations(
        ("before", 0, 0.5, 6), ("during", 2, best, 4), ("during", 4, end, 4), ("after", 4, end, 6)
    )
    kept = {"type": "best", "file": "a-best.safetensors", "iteration": 2, "score": best, "pairs": 4}
    assert summary_of(tmp_path, [*checks[:2], kept, *checks[2:]]).better is None


def test_curves_join_the_same_pairs_alone(tmp_path):
    """A check of all pairs counts by its first ones, and two of one iteration are one point."""
    checks = evaluations(
        ("before", 0, 0.5, 6), ("during", 2, 0.7, 4), ("after", 2, 0.7, 6), ("after", 1, 0.6, 6)
    )
    checks[0]["scores"][4:] = [9.0, 9.0]
    (held_out,) = (each for each in summary_of(tmp_path, checks).series if each.group == "held-out")
    assert [x for x, _, _ in held_out.points] == [0, 2] and held_out.pairs == 4
    assert held_out.points[0][1] == pytest.approx(0.5075)


def test_the_smoothed_curve_is_a_mean():
    assert curve.smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0] * 3)
    assert curve.smoothed_errors([1.0, 1.0])[1] == pytest.approx(math.sqrt(1 + 0.64) / 1.8)


# who holds the folder


def test_a_new_run_wants_a_folder_of_its_own(workshop, finished):
    before = (finished / "events.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"already in use(.|\n)*rlr resume"):
        start(workshop, finished)
    assert (finished / "events.jsonl").read_bytes() == before


def test_a_folder_that_is_renamed_at_work_is_let_go_of_where_it_is(tmp_path):
    """Or it would be shown as running for as long as the process lives: ComfyUI's lives long."""
    with RunDirectory(tmp_path / "one").held():
        (tmp_path / "one").rename(tmp_path / "other")
    note = RunDirectory(tmp_path / "other").worker
    assert note and not note.works and not (tmp_path / "one").exists()


def test_two_processes_do_not_work_on_one_run(copy):
    code = (
        "import sys, pathlib; from rlr_core.runs.directory import RunDirectory\n"
        f"with RunDirectory(pathlib.Path({str(copy)!r})).held():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as holder:
        assert holder.stdout and holder.stdin and holder.stdout.readline() == "held\n"
        assert RunDirectory(copy).state().state == "running"
        with pytest.raises(RunError, match=r"by another process(.|\n)*rlr stop"):
            runner.resume(copy, lambda event: None)
        assert request_stop(copy) and (copy / "stop").exists()
        holder.kill()
    assert RunDirectory(copy).state().state == "finished", "the operating system lets go of the lock"
    assert not request_stop(copy)


def test_a_bad_setting_leaves_no_folder(workshop, tmp_path):
    with pytest.raises(ConfigError):
        start(workshop, tmp_path / "run", training__prompts_per_batch=3)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RunError, match="no run in"):
        runner.resume(tmp_path, lambda event: None)


def test_runs_are_listed_and_numbered(finished, tmp_path):
    assert [state.folder.name for state in list_runs(finished.parent)] == ["run"]
    assert list_runs(tmp_path / "nowhere") == []
    assert free_folder(tmp_path, "a").name == "a-001"
    (tmp_path / "a-001").mkdir()
    assert free_folder(tmp_path, "a").name == "a-002"


def test_an_interrupted_run_is_called_so(copy):
    events = (copy / "events.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "events.jsonl").write_bytes(b"".join(events[:5]))
    state = RunDirectory(copy).state()
    assert state.state == "interrupted" and state.iteration < 6


def test_a_damaged_run_does_not_hide_the_others(copy):
    shutil.copytree(copy, copy.parent / "other")
    lines = (copy / "events.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "events.jsonl").write_bytes(b"".join([*lines[:2], b"garbage\n", *lines[2:]]))
    (copy.parent / "other" / "config.toml").write_text("[", encoding="utf-8")
    states = {state.folder.name: state for state in list_runs(copy.parent)}
    assert (states["copy"].state, states["copy"].unreadable) == ("finished", 1)
    assert states["other"].state == "damaged" and "is not TOML" in states["other"].message


# the log


def test_a_torn_line_is_not_there(tmp_path):
    path = tmp_path / "events.jsonl"
    first = log.EventLog(path)
    first.append("one", value=math.nan, clock={"seconds": 1.0})
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "ty')
    assert [event["type"] for event in log.read(path)] == ["one"]
    assert log.EventLog(path).append("two") == 2
    events = log.read(path)
    assert [event["type"] for event in events] == ["one", "two"] and events[0]["value"] is None


def test_how_far_painting_has_come_counts_until_something_else_is_told(tmp_path):
    """What a view shows of a run that is painting; a resumed run, which paints anew, is the run that was not interrupted."""
    path = tmp_path / "events.jsonl"
    events = log.EventLog(path)

    def told() -> list[str]:
        return [f"{event['type']} {event.get('done', '')}".strip() for event in log.read(path)]

    events.append("checkpoint")
    for done in (0, 8):
        after = events.append("painting", purpose="before", done=done, total=64)
    assert told() == ["checkpoint", "painting 0", "painting 8"]
    events.append("stopped")
    assert told() == ["checkpoint", "stopped"]
    events.append("resumed", after=after)
    assert told() == ["checkpoint"]
    events.append("painting", purpose="before", done=0, total=64)
    assert told() == ["checkpoint", "painting 0"]
    events.append("preview")
    assert told() == ["checkpoint", "preview"]


def test_every_painting_is_in_the_log(finished):
    lines = [event for event in follow(finished).new() if event["type"] == "painting"]
    assert {event["purpose"] for event in lines} == {"before", "preview", "during", "after"}
    assert [(e["iteration"], e["done"], e["total"]) for e in lines if e["purpose"] == "before"] == [
        (0, 0, 3),
        (0, 3, 3),
    ]


def test_what_was_logged_after_the_checkpoint_is_void(tmp_path):
    path = tmp_path / "events.jsonl"
    events = log.EventLog(path)
    for kind in ("a", "b", "c"):
        events.append(kind)
    events.append("resumed", after=1)
    events.append("d")
    assert [event["type"] for event in log.read(path)] == ["a", "d"]


# disks and folders


needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")


@needs_dev_full
@pytest.mark.parametrize(
    "victim",
    ["checkpoints/000004.pt", "events.jsonl", "rlr-lora-best.safetensors", "rlr-lora.safetensors"],
)
def test_a_full_disk_loses_nothing(victim, workshop, finished, tmp_path):
    """The kernel refuses the write (through a link to /dev/full); once there is room, the run goes on."""
    folder, full = tmp_path / "run", Path("/dev/full")
    path = folder / victim
    obstacle = path if victim == "events.jsonl" else path.with_name(f".{path.name}.{os.getpid()}.tmp")

    when = 1 if "best" in victim else 3  # the second iteration is the best one

    def fill(event) -> None:
        if getattr(event, "iteration", 0) == when and not obstacle.is_symlink():
            obstacle.exists() and obstacle.rename(folder / "aside")
            obstacle.symlink_to(full)

    with pytest.raises(StorageError, match=r"No space left on device(.|\n)*free some space"):
        runner.start(runs.config(workshop), folder, fill)
    if obstacle.is_symlink():
        obstacle.unlink()
    if (folder / "aside").exists():
        (folder / "aside").rename(obstacle)
    runner.resume(folder, lambda event: None)
    runs.assert_same_run(folder, finished)


def test_a_folder_that_cannot_be_made(workshop, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot be written"):
        start(workshop, tmp_path / "file" / "run")


def test_whatever_the_system_refuses_is_told(tmp_path):
    with pytest.raises(StorageError, match=r"Is a directory(.|\n)*a folder is in the way"):
        storage.write_text(tmp_path, "text")
    with pytest.raises(StorageError, match=r"File name too long(.|\n)*a shorter name"):
        storage.write_text(tmp_path / ("x" * 300), "text")
    with pytest.raises(OSError, match="of a library"), storage.storing(tmp_path):
        raise OSError("of a library")


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    storage.write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half", encoding="utf-8")
        raise MemoryError

    with pytest.raises(MemoryError):
        storage.write_atomically(path, fail)
    assert path.read_text(encoding="utf-8") == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_picture_that_is_none(tmp_path):
    (tmp_path / "a.png").write_text("no picture", encoding="utf-8")
    for name in ("a.png", "nowhere.png"):
        with pytest.raises(RLRError, match=f"{name} cannot be read"):
            read_picture(tmp_path / name)
