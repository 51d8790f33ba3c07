"""A run that is cancelled in whatever way a host cancels goes on as if nothing had happened."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

import runs

from rlr_core import config
from rlr_core.config import RunConfig
from rlr_core.runs import recorder, runner
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.requests import request_stop
from rlr_core.trainer import Iteration

REWARD = """
import time
from pathlib import Path

BESIDE = Path(__file__).parent

def red(images, prompts):
    if (BESIDE / "cancel").exists():
        raise KeyboardInterrupt
    if (BESIDE / "wait").exists():
        (BESIDE / "waits").touch()
        time.sleep(300)
    return images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))

red.differentiable = True
"""


class Cancelled(BaseException):
    """As a host interrupts what it runs."""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    folder = runs.workshop(tmp_path_factory.mktemp("workshop"))
    (folder / "host.py").write_text(REWARD, encoding="utf-8")
    return folder


@pytest.fixture
def settings(workshop) -> RunConfig:
    for name in ("cancel", "wait", "waits"):
        (workshop / name).unlink(missing_ok=True)
    return plain(workshop)


def plain(workshop: Path) -> RunConfig:
    return runs.config(workshop, reward__name=f"{workshop / 'host.py'}:red", reward__held_out="sharpness")


@pytest.fixture(scope="module")
def reference(workshop, tmp_path_factory) -> Path:
    """The run that nobody cancelled."""
    return runner.start(plain(workshop), tmp_path_factory.mktemp("reference") / "run", ignore).folder


def ignore(event: Any) -> None:
    pass


def at_iteration(number: int, act: Callable[[], None]) -> runner.Listener:
    """A listener that acts when that iteration is over."""

    def listen(event: Any) -> None:
        if isinstance(event, Iteration) and event.iteration == number:
            act()

    return listen


def cancel() -> None:
    raise Cancelled


def by_the_listener(config: RunConfig, folder: Path) -> None:
    runner.start(config, folder, at_iteration(3, cancel))


def by_the_button(config: RunConfig, folder: Path) -> None:
    """Between two denoising steps of the fourth iteration."""
    steps = itertools.count()
    armed: list[int] = []

    def should_stop() -> bool:
        if armed and next(steps) == 2:
            raise Cancelled
        return False

    runner.start(config, folder, at_iteration(3, lambda: armed.append(1)), should_stop=should_stop)


def by_the_reward(config: RunConfig, folder: Path) -> None:
    flag = Path(config.reward.name.rpartition(":")[0]).with_name("cancel")
    try:
        runner.start(config, folder, at_iteration(3, flag.touch))
    finally:
        flag.unlink()


@pytest.mark.parametrize("cancelled", [by_the_listener, by_the_button, by_the_reward])
def test_a_cancelled_run_has_a_checkpoint_and_goes_on(cancelled, settings, reference, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises((Cancelled, KeyboardInterrupt)):
        cancelled(settings, folder)
    state = RunDirectory(folder).state()
    assert (state.state, state.iteration) == ("stopped", 3)
    assert (folder / "checkpoints" / "000003.pt").is_file(), "not only the one that was due at iteration 2"
    runner.resume(folder, ignore)
    runs.assert_same_run(folder, reference)


def test_a_button_that_says_stop(settings, reference, tmp_path):
    pressed: list[int] = []
    folder = tmp_path / "run"
    runner.start(
        settings, folder, at_iteration(3, lambda: pressed.append(1)), should_stop=lambda: bool(pressed)
    )
    assert RunDirectory(folder).state().state == "stopped"
    runner.resume(folder, ignore, should_stop=lambda: True)
    assert RunDirectory(folder).state().state == "stopped", "a resumed run is asked, too"
    runner.resume(folder, ignore)
    runs.assert_same_run(folder, reference)


def test_where_the_state_is_not_whole_the_last_checkpoint_counts(settings, reference, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setattr(recorder.Trainer, "__setattr__", never_whole)
    with pytest.raises(Cancelled):
        runner.start(settings, folder, at_iteration(3, cancel))
    monkeypatch.undo()
    assert RunDirectory(folder).state().state == "interrupted"
    assert not (folder / "checkpoints" / "000003.pt").exists()
    runner.resume(folder, ignore)
    runs.assert_same_run(folder, reference)


def never_whole(trainer: Any, name: str, value: Any) -> None:
    object.__setattr__(trainer, name, False if name == "whole" else value)


def test_an_event_that_is_not_in_the_log_yet_is_not_lost(settings, reference, tmp_path, monkeypatch):
    """Ctrl-C comes while it is being written: the trainer is ahead of the log."""
    record, folder = recorder.Recorder._record, tmp_path / "run"

    def interrupted(self: Any, event: Any) -> None:
        at_iteration(3, cancel)(event)
        record(self, event)

    monkeypatch.setattr(recorder.Recorder, "_record", interrupted)
    with pytest.raises(Cancelled):
        runner.start(settings, folder, ignore)
    monkeypatch.undo()
    assert not (folder / "checkpoints" / "000003.pt").exists()
    runner.resume(folder, ignore)
    runs.assert_same_run(folder, reference)


def test_a_request_to_stop_is_heard_while_a_run_is_taken_up(settings, tmp_path, monkeypatch):
    """It is told whether it fits before it is loaded, which takes a while on a big model."""
    folder, fitted = tmp_path / "run", recorder.fitted

    def meanwhile(config: RunConfig) -> Any:
        assert request_stop(folder)
        return fitted(config)

    with pytest.raises(Cancelled):
        runner.start(settings, folder, at_iteration(1, cancel))
    monkeypatch.setattr(recorder, "fitted", meanwhile)
    state = runner.resume(folder, ignore).state()
    assert (state.state, state.iteration) == ("stopped", 1)


@pytest.mark.slow
def test_the_second_ctrl_c_interrupts_at_once(settings, workshop, reference, tmp_path):
    """In a reward that takes minutes; the first one waits for the next denoising step."""
    file, folder = tmp_path / "run.toml", tmp_path / "run"
    file.write_text(config.to_toml(settings), encoding="utf-8")
    command = [sys.executable, "-m", "rlr_core", "train", str(file), "--run", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as training:
        wait_for(lambda: any('"type": "iteration"' in event for event in runs.told(folder)))
        (workshop / "wait").touch()
        wait_for((workshop / "waits").exists)
        training.send_signal(signal.SIGINT)
        wait_for((folder / "stop").exists)
        assert training.poll() is None
        training.send_signal(signal.SIGINT)
        _, told = training.communicate(timeout=60)
    assert training.returncode == 130 and "Press Ctrl-C again" in told and "Traceback" not in told
    assert RunDirectory(folder).state().state == "stopped"
    (workshop / "wait").unlink()
    runner.resume(folder, ignore)
    runs.assert_same_run(folder, reference)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
