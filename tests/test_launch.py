"""Runs in a process of their own: they outlive who started them, and tell whoever looks what became of them."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("diffusers")

import runs as tiny_runs

from rlr_core import config, runs
from rlr_core.cli import main
from rlr_core.config import RunConfig
from rlr_core.errors import CheckpointError, PromptError, RunError
from rlr_core.runs import detached, launching, log
from rlr_core.runs.__main__ import main as work
from rlr_core.runs.directory import RunDirectory, reserved_folder
from rlr_core.runs.state import QUIET
from rlr_core.runs.worker import Worker


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return tiny_runs.workshop(tmp_path_factory.mktemp("workshop"))


def short(workshop: Path) -> RunConfig:
    """Two iterations."""
    return tiny_runs.config(workshop, training__iterations=2, output__preview_every=1)


@pytest.fixture(scope="module")
def reference(workshop, tmp_path_factory) -> Path:
    """The same run in this process."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    return runs.start(short(workshop), folder, lambda event: None).folder


@pytest.fixture
def spawned(monkeypatch) -> list[list[str]]:
    """What would have been started; a process that sleeps is, in its place."""
    calls: list[list[str]] = []
    sleepers: list[subprocess.Popen[bytes]] = []

    def spawn(arguments: list[str], output: Path) -> int:
        calls.append(arguments)
        sleepers.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]))
        return sleepers[-1].pid

    monkeypatch.setattr(launching, "spawn", spawn)
    yield calls
    for sleeper in sleepers:
        sleeper.kill()
        sleeper.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def state(folder: Path) -> str:
    return RunDirectory(folder).state().state


# a launched run


def test_a_launched_run_outlives_who_launched_it(workshop, reference, tmp_path):
    """Its parent ends at once, then everything that was in its process group is killed; a view follows all the while."""
    file, folder = tmp_path / "run.toml", tmp_path / "run"
    file.write_text(config.to_toml(short(workshop)), encoding="utf-8")
    code = (
        "import os, sys; from pathlib import Path; from rlr_core import config, runs\n"
        f"runs.launch(config.load(Path({str(file)!r})), Path({str(folder)!r})); os._exit(0)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    assert parent.wait(timeout=60) == 0
    with suppress(ProcessLookupError):  # nobody is left in it
        os.killpg(parent.pid, signal.SIGKILL)
    assert state(folder) in ("starting", "running")
    seen: list[str] = []
    known: list[dict[str, Any]] = []
    follower = runs.follow(folder)

    def is_over() -> bool:
        nonlocal known
        known = runs.counting(known, follower.new())
        seen.append(state(folder))
        return seen[-1] not in ("starting", "running")

    wait_for(is_over)
    assert seen[-1] == "finished", (folder / "worker.log").read_text(encoding="utf-8")
    assert "running" in seen
    assert runs.counting(known, follower.new()) == log.read(folder / "events.jsonl")
    tiny_runs.assert_same_run(folder, reference)
    worker = RunDirectory(folder).state().worker
    assert worker and worker.host == platform.node() and worker.pid not in (parent.pid, os.getpid())


def test_a_launched_run_is_stopped_before_it_began_and_goes_on(workshop, reference, tmp_path):
    """The request waits for the worker, which heeds it at the first denoising step."""
    folder = runs.launch(short(workshop), tmp_path / "run")
    assert state(folder) == "starting" and runs.request_stop(folder)
    with pytest.raises(RunError, match="already in use"):
        runs.launch(tiny_runs.config(workshop), folder)
    wait_for(lambda: state(folder) not in ("starting", "running"))
    assert state(folder) == "stopped" and RunDirectory(folder).state().iteration == 0
    runs.launch_resume(folder)
    wait_for(lambda: state(folder) not in ("starting", "running"))
    assert state(folder) == "finished"
    tiny_runs.assert_same_run(folder, reference)
    with pytest.raises(RunError, match="is finished"):
        runs.launch_resume(folder)


def test_a_setting_that_shows_to_be_bad_later_is_told_in_the_log(workshop, tmp_path):
    settings = tiny_runs.config(workshop, training__prompts_per_batch=3)
    folder = runs.launch(settings, tmp_path / "run")
    wait_for(lambda: state(folder) not in ("starting", "running"))
    told = RunDirectory(folder).state()
    assert told.state == "failed" and "a number that divides the batch size" in told.message
    assert "a number that divides the batch size" in (folder / "worker.log").read_text(encoding="utf-8")
    assert [event["type"] for event in runs.follow(folder).new()] == ["launched", "failed"]


# what is seen at once


def test_what_can_be_seen_at_once_is_raised(workshop, tmp_path, spawned):
    plain = tiny_runs.config(workshop)
    prompts = replace(plain, prompts=replace(plain.prompts, file=str(tmp_path / "nowhere.txt")))
    lora = replace(plain, lora=replace(plain.lora, start=str(tmp_path / "nowhere.safetensors")))
    for wrong, error in ((prompts, PromptError), (lora, CheckpointError)):
        with pytest.raises(error, match="nowhere"):
            runs.launch(wrong, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    assert not spawned


def test_a_system_that_starts_no_process(workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(RunError, match="no process could be started"):
        runs.launch(tiny_runs.config(workshop), tmp_path / "run")
    assert state(tmp_path / "run") == "failed"


def test_a_run_without_a_folder_gets_the_next_one(workshop, tmp_path, monkeypatch, spawned):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine-001").mkdir(parents=True)
    assert runs.launch(tiny_runs.config(workshop), name="mine") == Path("runs/mine-002")
    assert runs.launch(tiny_runs.config(workshop)) == Path("runs/rlr-lora-001")
    assert spawned[0][-1] == str(tmp_path / "runs" / "mine-002"), "the worker need not be where we are"


def test_a_folder_is_reserved_for_one(tmp_path, monkeypatch):
    """Another process makes the folder between the look and the leap."""
    free, taken = tmp_path / "a-002", tmp_path / "a-001"
    taken.mkdir()
    answers = [taken, free]
    monkeypatch.setattr("rlr_core.runs.directory.free_folder", lambda root, name: answers.pop(0))
    assert reserved_folder(tmp_path, "a") == free and free.is_dir()


# who works on it


def test_a_worker_that_died_is_told_from_one_that_is_about_to_begin(workshop, tmp_path, spawned):
    folder = runs.launch(tiny_runs.config(workshop), tmp_path / "run")
    assert state(folder) == "starting"
    worker = RunDirectory(folder).worker
    assert worker and worker.lives
    psutil.Process(worker.pid).kill()
    wait_for(lambda: not worker.lives)  # a zombie: nobody has waited for it
    told = RunDirectory(folder).state()
    assert told.state == "interrupted" and "worker.log has its output" in told.message
    assert not runs.request_stop(folder)


def test_a_number_that_is_used_again_is_another_process():
    mine = Worker.of()
    assert mine.lives and mine.pid == os.getpid()
    assert replace(mine, started=mine.started - 60).lives, "the clock was set since"
    assert not replace(mine, started=mine.started - 60, uptime=mine.uptime - 60).lives
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not Worker.of(ended.pid).lives


def test_a_worker_of_another_computer_is_named(workshop, tmp_path, spawned):
    folder = runs.launch(tiny_runs.config(workshop), tmp_path / "run")
    replace(Worker.of(), host="elsewhere").write(folder / "worker.json")
    told = RunDirectory(folder).state()
    assert told.state == "starting" and "of the computer elsewhere" in told.message, "its writing is seen"
    assert told.worker and not told.worker.lives
    long_ago = time.time() - QUIET - 60
    for file in ("events.jsonl", "worker.json"):
        os.utime(folder / file, (long_ago, long_ago))
    told = RunDirectory(folder).state()
    assert told.state == "interrupted" and "of the computer elsewhere" in told.message


@pytest.mark.parametrize("note", ["", "{", "[]", '{"pid": 1}'])
def test_a_note_that_cannot_be_read_counts_as_none(note, tmp_path):
    (tmp_path / "worker.json").write_text(note, encoding="utf-8")
    assert Worker.read(tmp_path / "worker.json") is None


def test_a_run_that_somebody_else_has_taken_up_is_left_to_him(reference, capsys):
    before = (reference / "events.jsonl").read_bytes()
    assert work(reference) == 0 and "in other hands" in capsys.readouterr().err
    assert (reference / "events.jsonl").read_bytes() == before


def test_views_that_look_take_no_lock(workshop, tmp_path, monkeypatch, spawned):
    """Or a run would be refused its own folder while somebody looks."""
    folder = runs.launch(tiny_runs.config(workshop), tmp_path / "run")
    with RunDirectory(folder).held():

        def refuse(*arguments: Any) -> None:
            raise AssertionError("a view has asked for the lock")

        monkeypatch.setattr("filelock.FileLock", refuse)
        assert state(folder) == "running"
        assert [each.state for each in runs.list_runs(tmp_path)] == ["running"]
        assert RunDirectory(folder).is_active


def test_a_run_that_ends_while_it_is_looked_at(workshop, tmp_path, monkeypatch, spawned):
    folder = runs.launch(tiny_runs.config(workshop), tmp_path / "run")
    note = RunDirectory(folder).worker

    def ended(directory: RunDirectory) -> Worker | None:
        log.EventLog(directory.events_file).append("finished")
        return note

    monkeypatch.setattr(RunDirectory, "worker", property(ended))
    assert state(folder) == "finished"


def test_a_run_that_is_taken_up_while_it_is_looked_at(workshop, tmp_path, monkeypatch, spawned):
    folder = runs.launch(tiny_runs.config(workshop), tmp_path / "run")
    answers = [RunDirectory(folder).worker, Worker.of(works=True)]

    def taken_up(directory: RunDirectory) -> Worker | None:
        log.EventLog(directory.events_file).append("resumed", after=0)
        return answers.pop(0)

    monkeypatch.setattr(RunDirectory, "worker", property(taken_up))
    assert state(folder) == "running"


# a process of its own


def test_what_sets_a_process_free():
    assert detached.options(windows=False) == {"start_new_session": True}
    assert detached.options(windows=True) == {"creationflags": 0x200 | 0x08000000}


@pytest.mark.parametrize("windows", [False, True])
def test_how_a_process_is_started(windows, tmp_path, monkeypatch):
    """Its arguments as a list; it has no input, and its output goes to the file."""
    calls: list[tuple[Any, dict[str, Any]]] = []

    class Started:
        pid = 7

        def __init__(self, arguments: list[str], **options: Any):
            calls.append((arguments, options))

        def wait(self) -> None:
            pass

    monkeypatch.setattr(detached, "WINDOWS", windows)
    monkeypatch.setattr(subprocess, "Popen", Started)
    assert detached.spawn(["-m", "a b", "ü"], tmp_path / "out") == 7
    ((arguments, options),) = calls
    assert arguments == [sys.executable, "-m", "a b", "ü"] and options["stdin"] == subprocess.DEVNULL
    assert options["stdout"].name == str(tmp_path / "out") and options["stderr"] == subprocess.STDOUT
    assert detached.options(windows=windows).items() <= options.items()


def test_a_process_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "only_here.py").write_text("word = 'grün 赤'", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "hidden"))
    monkeypatch.setenv("LC_ALL", "C")
    code = "import os, sys, only_here; print(only_here.word, os.getsid(0), repr(sys.stdin.read()), sys.argv)"
    pid = detached.spawn(["-c", code, "a b"], tmp_path / "out")
    wait_for(lambda: not psutil.pid_exists(pid), 30)  # no zombie is left
    said = (tmp_path / "out").read_text(encoding="utf-8")
    assert said == f"grün 赤 {pid} '' ['-c', 'a b']\n", "a session of its own"


# the command


def test_rlr_train_detached(workshop, tmp_path, monkeypatch, capsys, spawned):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(config.to_toml(tiny_runs.config(workshop)), encoding="utf-8")
    assert main(["train", "tiny.toml", "--detach"]) == 0
    said = capsys.readouterr().out
    assert "runs/tiny-001" in said and "rlr stop runs/tiny-001" in said and "worker.log" in said
    assert main(["runs"]) == 0 and "starting" in capsys.readouterr().out
    assert main(["stop", "runs/tiny-001"]) == 0
    assert main(["resume", "runs/tiny-001", "--detach"]) == 0
    assert len(spawned) == 2 and not Path("runs/tiny-001/stop").exists()
