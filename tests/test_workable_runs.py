"""Runs can be worked with: stopped, looked at, exported and extended, each with what a finished run has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

import runs
import torch

from rlr_core.cli import main
from rlr_core.errors import CheckpointError, ConfigError, RunError, StorageError
from rlr_core.lora import read_lora
from rlr_core.runs import log, runner
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.exporting import export_checkpoint
from rlr_core.runs.extending import lengthen
from rlr_core.runs.summary import Summary
from rlr_core.trainer import Iteration

SETTINGS = {"training__ema": 0.5, "output__keep_loras": 2, "output__keep_checkpoints": 10}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="module")
def finished(workshop, tmp_path_factory) -> Path:
    """A run of six iterations that nobody stopped."""
    return start(workshop, tmp_path_factory.mktemp("root") / "run")


@pytest.fixture(scope="module")
def stopped(workshop, tmp_path_factory) -> Path:
    """The same one, stopped after its third iteration."""
    return stopped_after(3, workshop, tmp_path_factory.mktemp("root") / "run")


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def start(workshop: Path, folder: Path, listen=lambda event: None, **overrides) -> Path:
    config = runs.config(workshop, **{**SETTINGS, **overrides})
    return runner.start(config, folder, listen).folder


def stopped_after(iteration: int, workshop: Path, folder: Path, **overrides) -> Path:
    def ask(event) -> None:
        if isinstance(event, Iteration) and event.iteration == iteration:
            (folder / "stop").touch()

    return start(workshop, folder, ask, **overrides)


def tensors(file: Path) -> dict[str, torch.Tensor]:
    return runs.loras(file.parent)[file.name][0]


# a run that was stopped


def test_a_stopped_run_has_what_a_finished_one_has(stopped, finished):
    assert RunDirectory(stopped).state().state == "stopped"
    names = {"rlr-lora.safetensors", "rlr-lora.json", "rlr-lora.preview.png", "report.html", "reward.png"}
    assert names <= {path.name for path in stopped.iterdir()}
    assert runs.lora(stopped)[1]["rlr.iterations"] == "3"
    assert "So far 3 of 6 iterations" in (stopped / "report.html").read_text(encoding="utf-8")
    assert "So far" not in (finished / "report.html").read_text(encoding="utf-8")


def test_its_lora_is_that_of_its_last_iteration(stopped, workshop, tmp_path):
    whole = start(workshop, tmp_path / "run", training__iterations=3)
    runs.assert_same(runs.lora(stopped)[0], runs.lora(whole)[0])


def test_it_goes_on_as_if_it_had_not_been_stopped(stopped, finished, tmp_path):
    folder = Path(shutil.copytree(stopped, tmp_path / "copy"))
    runner.resume(folder)
    runs.assert_same_run(folder, finished)


def test_a_run_that_is_stopped_before_it_has_learned_has_a_report(workshop, tmp_path):
    folder = tmp_path / "run"
    runner.start(runs.config(workshop), folder, should_stop=lambda: True)
    assert RunDirectory(folder).state().state == "stopped"
    assert (folder / "report.html").is_file() and not list(folder.glob("*.safetensors"))
    assert not Summary.read(folder / "events.jsonl").of("warning")


def test_a_lora_that_cannot_be_written_keeps_no_run_from_stopping(workshop, tmp_path):
    folder, told = tmp_path / "run", []

    def listen(event) -> None:
        told.append(event)
        if isinstance(event, Iteration) and event.iteration == 2:
            (folder / "rlr-lora.safetensors").mkdir()
            (folder / "stop").touch()

    start(workshop, folder, listen)
    assert RunDirectory(folder).state().state == "stopped"
    assert "rlr-lora.safetensors could not be made" in told[-1].message


# LoRAs on the way


def test_loras_are_kept_on_the_way(finished, workshop, tmp_path):
    kept = sorted(path.name for path in finished.glob("rlr-lora-0*.safetensors"))
    assert kept == [f"rlr-lora-00000{n}.safetensors" for n in (2, 4, 6)]
    assert runs.loras(finished)["rlr-lora-000004.safetensors"][1]["rlr.iterations"] == "4"
    runs.assert_same(tensors(finished / kept[-1]), runs.lora(finished)[0])
    plain = start(workshop, tmp_path / "run", output__keep_loras=0)
    assert not list(plain.glob("rlr-lora-0*"))
    runs.assert_same(runs.lora(plain)[0], runs.lora(finished)[0])


def test_a_kept_lora_that_cannot_be_written_is_told(workshop, tmp_path):
    folder = tmp_path / "run"

    def listen(event) -> None:
        (folder / "rlr-lora-000002.safetensors").mkdir(exist_ok=True)

    start(workshop, folder, listen, training__iterations=2)
    assert RunDirectory(folder).finished
    (warning,) = Summary.read(folder / "events.jsonl").of("warning")
    assert "rlr-lora-000002.safetensors could not be made" in warning["message"]


# export


@pytest.mark.parametrize("iteration", [2, 4, 6])
def test_an_exported_checkpoint_is_the_lora_of_that_iteration(finished, tmp_path, iteration):
    """With the running mean, as the run itself writes it, and with what it says of itself but for its scores."""
    out = tmp_path / f"rlr-lora-{iteration:06d}.safetensors"
    made = export_checkpoint(finished, iteration, out)
    assert (made.iteration, made.iterations) == (iteration, [0, 2, 4, 6])
    (exported, said), (own, told) = runs.loras(tmp_path)[out.name], runs.loras(finished)[out.name]
    runs.assert_same(exported, own)
    assert said == told, "no scores were known yet"
    card = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert card == json.loads((finished / out.name).with_suffix(".json").read_text(encoding="utf-8"))


def test_dora_is_exported_to_the_bit(workshop, tmp_path):
    settings = {"lora__dora": True, "lora__targets": "all", "lora__text_encoder": True}
    folder = start(workshop, tmp_path / "run", training__iterations=2, output__keep_loras=0, **settings)
    made = export_checkpoint(folder)
    assert made.file == folder / "rlr-lora-000002.safetensors"
    runs.assert_same(tensors(made.file), runs.lora(folder)[0])


def test_a_run_at_work_is_exported_and_not_disturbed(workshop, finished, tmp_path):
    folder, exported = tmp_path / "run", []

    def listen(event) -> None:
        if isinstance(event, Iteration) and event.iteration == 5:
            before = sorted(path.name for path in folder.iterdir())
            exported.append(export_checkpoint(folder, out=tmp_path / "mine.safetensors"))
            assert sorted(path.name for path in folder.iterdir()) == before

    start(workshop, folder, listen)
    assert exported[0].iteration == 4
    runs.assert_same(
        tensors(tmp_path / "mine.safetensors"), tensors(finished / "rlr-lora-000004.safetensors")
    )
    runs.assert_same_run(folder, finished)


def test_a_run_that_died_is_exported(workshop, tmp_path):
    folder = tmp_path / "run"

    def crash(event) -> None:
        if isinstance(event, Iteration) and event.iteration == 3:
            raise MemoryError

    with pytest.raises(MemoryError):
        start(workshop, folder, crash, output__keep_loras=0)
    assert not (folder / "rlr-lora.safetensors").exists()
    assert export_checkpoint(folder).iteration == 2
    assert read_lora(folder / "rlr-lora-000002.safetensors").kind == "kohya"


def test_what_cannot_be_exported_is_refused(copy, tmp_path):
    with pytest.raises(RunError, match=r"no checkpoint of iteration 5.*\n.*one of 0, 2, 4, 6"):
        export_checkpoint(copy, 5)
    with pytest.raises(StorageError, match="there already"):
        export_checkpoint(copy, 6)
    with pytest.raises(CheckpointError, match="nothing was learned"):
        export_checkpoint(copy, 0)
    (copy / "checkpoints" / "000004.pt").write_bytes(b"RLR checkpoint")
    with pytest.raises(RunError, match="damaged"):
        export_checkpoint(copy, 4, tmp_path / "new.safetensors")
    with pytest.raises(RunError, match="no run in"):
        export_checkpoint(tmp_path)


def test_a_run_is_exported_from_the_command_line(copy, tmp_path, capsys):
    out = tmp_path / "a folder with ä" / "mine.safetensors"
    assert main(["export", str(copy), "--iteration", "4", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "iteration 4" in told and "0, 2, 4, 6" in told and out.is_file()


# extend


def test_an_extended_run_is_the_run_that_was_longer_from_the_start(workshop, finished, tmp_path):
    folder = start(workshop, tmp_path / "run", training__iterations=4)
    first = runs.lora(folder)[0]
    before = Summary.read(folder / "events.jsonl").held_out
    assert lengthen(folder, 2).training.iterations == 6
    state = RunDirectory(folder).state()
    assert (state.state, state.iteration, state.iterations) == ("interrupted", 4, 6), (
        "killed here, it goes on"
    )
    runner.resume(folder)
    runs.assert_same(runs.lora(folder)[0], runs.lora(finished)[0])
    runs.assert_same(runs.newest(folder), runs.newest(finished))
    after = Summary.read(folder / "events.jsonl").held_out
    assert after == Summary.read(finished / "events.jsonl").held_out, "compared with the start"
    assert before is not None and after is not None and after.before == before.before
    runs.assert_same(tensors(folder / "rlr-lora-000004.safetensors"), first)
    assert RunDirectory(folder).state().held_out == after


def test_the_lora_of_a_run_that_is_extended_stays(workshop, tmp_path):
    folder = start(workshop, tmp_path / "run", training__iterations=1, output__keep_loras=0)
    first = (folder / "rlr-lora.safetensors").read_bytes()
    assert main(["extend", str(folder), "--iterations", "1"]) == 0
    assert (folder / "rlr-lora-000001.safetensors").read_bytes() == first
    assert (folder / "rlr-lora.safetensors").read_bytes() != first


def test_a_stopped_run_is_extended(stopped, tmp_path, capsys):
    folder = Path(shutil.copytree(stopped, tmp_path / "copy"))
    assert main(["extend", str(folder), "--iterations", "1"]) == 0
    told = capsys.readouterr().out
    assert "now to have 7 iterations" in told and "at iteration 3" in told and "interrupted" not in told
    state = RunDirectory(folder).state()
    assert (state.state, state.iteration, state.iterations) == ("finished", 7, 7)


def test_what_cannot_be_extended_is_refused(copy, tmp_path):
    for number in (0, -1, 10**10):
        with pytest.raises(ConfigError, match="--iterations"):
            lengthen(copy, number)
    with RunDirectory(copy).held(), pytest.raises(RunError, match="already in use"):
        lengthen(copy, 1)
    before = (copy / "config.toml").read_bytes()
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(RunError, match="no checkpoint"):
        lengthen(copy, 1)
    assert (copy / "config.toml").read_bytes() == before
    assert log.ending(copy / "events.jsonl").type == "finished"


# report


def test_a_report_can_be_had_at_any_time(workshop, tmp_path, capsys):
    folder, pages = tmp_path / "run", []

    def listen(event) -> None:
        if isinstance(event, Iteration) and event.iteration in (1, 3):
            assert main(["report", str(folder)]) == 0
            pages.append((folder / "report.html").read_text(encoding="utf-8"))

    start(workshop, folder, listen)
    assert "So far 1 of 6" in pages[0] and "So far 3 of 6" in pages[1]
    assert "running, iteration 3 of 6" in capsys.readouterr().out


def test_a_report_needs_a_run(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "no run in" in capsys.readouterr().err
