"""kill -9 at any moment, then resume: bit for bit the run that was never interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

import killed
import runs

from rlr_core import config
from rlr_core.cli import main
from rlr_core.errors import RunError
from rlr_core.runs import runner
from rlr_core.runs.directory import RunDirectory
from rlr_core.trainer import Warned

POINTS = [name for name, thing in vars(killed).items() if name.startswith(("while_", "within_", "after_"))]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="module")
def reference(workshop, tmp_path_factory) -> Path:
    """The run that was never interrupted."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    return runner.start(runs.config(workshop), folder, lambda event: None).folder


def test_the_same_run_twice_is_the_same(workshop, reference, tmp_path):
    runner.start(runs.config(workshop), tmp_path / "run", lambda event: None)
    runs.assert_same_run(tmp_path / "run", reference)


def test_another_seed_is_another_run(workshop, reference, tmp_path):
    runner.start(runs.config(workshop, training__seed=1), tmp_path / "run", lambda event: None)
    with pytest.raises(AssertionError):
        runs.assert_same_run(tmp_path / "run", reference)


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_is_resumed_as_if_nothing_had_happened(point, workshop, reference, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.with_suffix(".toml").write_text(config.to_toml(runs.config(workshop)), encoding="utf-8")
    assert killed.exit_code(killed.by_config, point, folder) == -signal.SIGKILL
    assert RunDirectory(folder).state().state == "interrupted"
    assert main(["resume", str(folder)]) == 0
    runs.assert_same_run(folder, reference)
    assert not list(folder.rglob(".*.tmp")), "half-written files are removed"
    assert "resumed" in (folder / "events.jsonl").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_runs_are_killed_at_random():
    """A few of the kills that `kill_randomly.py` does by the hundred."""
    script = [sys.executable, str(Path(__file__).with_name("kill_randomly.py")), "--kills", "6"]
    done = subprocess.run([*script, "--estimators", "rlr", "ddpo"], capture_output=True, text=True)
    assert done.returncode == 0 and "6 kills of" in done.stdout, done.stdout + done.stderr
    assert "failures: 0" in done.stdout


def test_a_run_is_killed_twice(workshop, reference, tmp_path):
    """What was logged between the two crashes is void, too."""
    folder = tmp_path / "run"

    def crash(after: int):
        def listen(event):
            if getattr(event, "iteration", 0) == after:
                raise MemoryError("out of memory")

        return listen

    with pytest.raises(MemoryError):
        runner.start(runs.config(workshop), folder, crash(3))
    with pytest.raises(MemoryError):
        runner.resume(folder, crash(5))
    assert RunDirectory(folder).state().state == "failed"
    assert "out of memory" in RunDirectory(folder).state().message
    runner.resume(folder, lambda event: None)
    runs.assert_same_run(folder, reference)


@pytest.mark.parametrize("calls", [2, 16, 28, 62])
@pytest.mark.parametrize("name", ["rlr", "ddpo"])
def test_a_stopped_run_is_resumed_as_if_nothing_had_happened(calls, name, workshop, tmp_path):
    """Stopped between two denoising steps wherever they are: evaluation, preview, rollout or gradient."""
    settings = {"estimator__name": name} | ({"estimator__batch_reuse": 2} if name == "ddpo" else {})
    settings |= {"estimator__baseline": "running_mean", "training__iterations": 4}
    runs.assert_resumed_alike(workshop, tmp_path, calls, **settings)


def test_a_damaged_checkpoint_is_passed_over(workshop, reference, tmp_path):
    folder = tmp_path / "run"

    def crash(event):
        if getattr(event, "iteration", 0) == 5:
            raise MemoryError

    with pytest.raises(MemoryError):
        runner.start(runs.config(workshop), folder, crash)
    newest, told = max((folder / "checkpoints").iterdir()), []
    newest.write_bytes(newest.read_bytes()[:1000])
    runner.resume(folder, told.append)
    assert isinstance(told[0], Warned) and "000004.pt was passed over" in told[0].message
    assert told[0].message in (folder / "events.jsonl").read_text(encoding="utf-8")
    assert newest.with_name("000004.pt.refused").stat().st_size == 1000
    runs.assert_same_run(folder, reference)


def test_a_finished_run_is_not_resumed(reference):
    with pytest.raises(RunError, match="finished"):
        runner.resume(reference, lambda event: None)
