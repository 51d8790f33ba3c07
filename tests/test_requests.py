"""What is asked of a run at work: a preview or a checkpoint now, which change nothing of the training; and its end at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from foreign import ForeignModel, foreign_config
from runs import assert_same, loras, newest

from rlr_core.cli import main
from rlr_core.errors import RunError
from rlr_core.rewards import FunctionReward
from rlr_core.runs import kill, killing, log, log_tail, request, requests, runner
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.worker import Worker
from rlr_core.trainer import Event, Iteration, Materials, Rewards

ASKED = ("preview", "painting", "saved", "resumed", "stopped")
"""Events that what is asked adds."""


def materials() -> Materials:
    trained = FunctionReward("red", True, lambda images, prompts: images[:, 0].mean((1, 2)))
    watching = FunctionReward("contrast", False, lambda images, prompts: images.flatten(1).std(1))
    return Materials(model=ForeignModel(), rewards=Rewards(trained, watching))


def trained(folder: Path, listen: Callable[[Event], None], **settings: Any) -> Path:
    estimator = {"estimator__first_order_steps": 1, "estimator__sub_chains": "learned", "training__ema": 0.5}
    made = foreign_config("red", estimator__name="rlr", **estimator, **settings)
    return runner.start(made, folder, listen, materials=materials()).folder


def asking(folder: Path, wishes: dict[int, list[str]]) -> Callable[[Event], None]:
    """At the end of each iteration what is wished then."""

    def listen(event: Event) -> None:
        if isinstance(event, Iteration):
            for wish in wishes.get(event.iteration, []):
                assert request(folder, wish)  # type: ignore[arg-type]

    return listen


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("reference") / "run", lambda event: None)


def told(folder: Path) -> list[str]:
    """Of what was not asked for: the events without number and time."""
    events = [event for event in log.read(folder / "events.jsonl") if event["type"] not in ASKED]
    return [json.dumps({**event, "seq": 0, "clock": 0}, sort_keys=True) for event in events]


def of(folder: Path, kind: str) -> list[int]:
    return [event["iteration"] for event in log.read(folder / "events.jsonl") if event["type"] == kind]


def assert_same_training(folder: Path, reference: Path) -> None:
    assert told(folder) == told(reference)
    assert_same(newest(folder), newest(reference))
    ours, theirs = loras(folder), loras(reference)
    assert_same({name: ours[name] for name in theirs}, theirs)


# a preview, a checkpoint


def test_what_is_asked_changes_nothing_of_the_training(reference, tmp_path):
    """At an iteration where nothing is due, and at one where it comes by itself: then it comes once."""
    folder = tmp_path / "run"
    wishes = {1: ["preview"], 2: ["preview", "save"], 3: ["save"], 5: ["preview", "save"]}
    trained(folder, asking(folder, wishes))
    assert_same_training(folder, reference)
    assert of(reference, "preview") == [0, 2, 4, 6] and of(folder, "preview") == [0, 1, 2, 4, 5, 6]
    assert of(folder, "saved") == [2, 3, 5] and of(folder, "checkpoint") == of(reference, "checkpoint")
    for iteration in (1, 5):
        assert (folder / "previews" / f"{iteration:06d}.png").is_file()
    assert not list(folder.glob("*-now"))


def test_what_was_saved_is_the_lora_of_that_iteration(tmp_path):
    folder, kept = tmp_path / "run", tmp_path / "kept"
    trained(folder, asking(folder, {3: ["save"]}))
    trained(kept, lambda event: None, output__keep_loras=3)
    name = "rlr-lora-000003.safetensors"
    assert_same(loras(folder)[name][0], loras(kept)[name][0])
    (saved,) = (event for event in log.read(folder / "events.jsonl") if event["type"] == "saved")
    assert saved["file"] == name


def test_a_run_goes_on_from_what_was_saved(reference, tmp_path):
    """It is killed, as far as its log can tell, right after it."""
    folder = tmp_path / "run"

    class Killed(BaseException):
        pass

    def die(event: Event) -> None:
        if isinstance(event, Iteration) and event.iteration == 4:
            raise Killed
        asking(folder, {3: ["save"]})(event)

    with pytest.raises(Killed):
        trained(folder, die)
    (folder / "checkpoints" / "000004.pt").unlink()  # that of whoever is interrupted, and not killed
    assert RunDirectory(folder).checkpoints.iterations == [3]
    runner.resume(folder, materials=materials())
    assert_same_training(folder, reference)
    assert of(folder, "saved") == [3], "what counts"


def test_a_save_that_the_disk_refuses_ends_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    (folder / "rlr-lora-000003.safetensors").mkdir(parents=True)
    monkeypatch.setattr(RunDirectory, "refuse_if_taken", lambda self: None)
    trained(folder, asking(folder, {3: ["save"]}))
    assert RunDirectory(folder).state().state == "finished" and of(folder, "saved") == []
    warnings = [e["message"] for e in log.read(folder / "events.jsonl") if e["type"] == "warning"]
    assert any("rlr-lora-000003.safetensors could not be made" in message for message in warnings)


def test_an_old_request_is_none_of_the_next_worker(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("preview-now", "save-now"):
        (folder / name).touch()
    trained(folder, lambda event: None, training__iterations=1)
    assert of(folder, "saved") == [] and of(folder, "preview") == [0, 1] and not list(folder.glob("*-now"))


def test_a_request_that_cannot_be_taken_away_yet_waits(tmp_path, monkeypatch):
    """On Windows a file that is open is not deleted."""
    directory = RunDirectory(tmp_path)
    directory.save_file.touch()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert not requests.taken_up(directory, "save")
    assert requests.taken_up(directory, "save") and not requests.taken_up(directory, "save")


def refuse(*arguments: Any, **options: Any) -> None:
    raise PermissionError(13, "it is open")


def test_nobody_is_asked_where_nobody_works(reference, capsys):
    for command in ("preview", "save", "stop"):
        assert not request(reference, command)  # type: ignore[arg-type]
        assert main([command, str(reference)]) == 2 and "is not running" in capsys.readouterr().err


def test_rlr_preview_and_save(tmp_path, capsys):
    folder = tmp_path / "run"

    def listen(event: Event) -> None:
        if isinstance(event, Iteration) and event.iteration == 1:
            assert main(["preview", str(folder)]) == 0 and main(["save", str(folder)]) == 0

    trained(folder, listen)
    assert "Asked" in capsys.readouterr().out
    assert of(folder, "saved") == [1] and 1 in of(folder, "preview")


# the end at once

WORKER = """
import subprocess, sys, time
from pathlib import Path
from rlr_core.runs import log
from rlr_core.runs.directory import RunDirectory

directory = RunDirectory(Path(sys.argv[1]))
sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
starts_one = f"import subprocess, time; print(subprocess.Popen({sleep!r}).pid, flush=True); time.sleep(300)"
with directory.held():
    child = subprocess.Popen([sys.executable, "-c", starts_one], stdout=subprocess.PIPE, text=True)
    orphans = f"import subprocess; print(subprocess.Popen({sleep!r}, stdout=subprocess.DEVNULL).pid, flush=True)"
    parted = subprocess.Popen([sys.executable, "-c", orphans], stdout=subprocess.PIPE, text=True)
    grandchild, orphan = int(child.stdout.readline()), int(parted.stdout.readline())
    parted.wait()
    print(child.pid, grandchild, orphan, flush=True)
    time.sleep(300)
"""


@pytest.fixture
def at_work(tmp_path) -> Any:
    """The folder of a run that a process has in its hands; and all processes that belong to it."""
    directory = RunDirectory(tmp_path / "run")
    directory.folder.mkdir()
    directory.rewrite(foreign_config("red"))
    log.EventLog(directory.events_file).append("iteration", iteration=1, reward=0.5)
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, directory.folder],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert worker.stdout
    pids = [worker.pid, *map(int, worker.stdout.readline().split())]
    yield directory.folder, pids
    for pid in pids:
        if lives(pid):
            psutil.Process(pid).kill()
    worker.wait()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_is_killed_with_all_that_it_started(at_work):
    """Its children, theirs, and on POSIX one whose parent has ended."""
    folder, pids = at_work
    assert all(map(lives, pids)) and RunDirectory(folder).state().state == "running"
    kill(folder)
    assert not any(map(lives, pids)), [lives(pid) for pid in pids]
    assert RunDirectory(folder).state().state == "interrupted"
    with pytest.raises(RunError, match="nobody works on"):
        kill(folder)


def test_on_windows_the_descendants_alone_are_looked_for(at_work, monkeypatch):
    """There a process whose parent has ended still tells its number; here it is not found, and the others are."""
    folder, pids = at_work
    monkeypatch.setattr(killing, "POSIX", False)
    kill(folder)
    assert [lives(pid) for pid in pids] == [False, False, False, True]


def test_a_process_that_only_has_the_number_is_left_alone(at_work, tmp_path):
    folder, _ = at_work
    worker = RunDirectory(folder).worker
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    assert worker
    other = replace(worker, pid=bystander.pid, started=worker.started - 60, uptime=worker.uptime - 60)
    other.write(folder / "worker.json")
    with pytest.raises(RunError, match="nobody works on"):
        kill(folder)
    assert lives(bystander.pid)
    bystander.kill()
    bystander.wait()


def test_a_worker_that_lets_go_in_that_moment_lives_on(at_work, monkeypatch):
    """It may have started the next run of the queue by then."""
    folder, pids = at_work
    suspend = psutil.Process.suspend

    def let_go(process: psutil.Process) -> None:
        worker = RunDirectory(folder).worker
        assert worker
        replace(worker, works=False).write(folder / "worker.json")
        suspend(process)

    monkeypatch.setattr(psutil.Process, "suspend", let_go)
    with pytest.raises(RunError, match="nobody works on"):
        kill(folder)
    assert all(map(lives, pids))
    assert psutil.Process(pids[0]).status() != psutil.STATUS_STOPPED


def test_whom_nobody_here_can_end(at_work):
    folder, _ = at_work
    Worker.of(works=True).write(folder / "worker.json")
    with pytest.raises(RunError, match="this very process"):
        kill(folder)
    replace(Worker.of(works=True), host="elsewhere").write(folder / "worker.json")
    with pytest.raises(RunError, match="the computer elsewhere"):
        kill(folder)


def test_who_may_not_be_ended_is_said(at_work, monkeypatch):
    folder, pids = at_work

    def deny(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "suspend", deny)
    with pytest.raises(RunError, match=f"process {pids[0]} may not be ended"):
        kill(folder)


# the last words


def test_the_last_lines_of_a_worker(tmp_path):
    assert log_tail(tmp_path) == []
    said = "one\r\n\x1b[31mred\x1b[0m \x07bell\n 1%\r 50%\r100%\n\x1b]0;title\x07grün\tend\n\ufffd\n\n"
    (tmp_path / "worker.log").write_bytes(said.encode() + b"\xff\x00last")
    assert log_tail(tmp_path) == ["one", "red bell", "100%", "grün    end", "\ufffd", "", "\ufffdlast"]
    assert log_tail(tmp_path, 2) == ["", "\ufffdlast"] and log_tail(tmp_path, 0) == []


def test_the_end_alone_of_a_long_log_is_read(tmp_path):
    with (tmp_path / "worker.log").open("wb") as file:
        file.truncate(2**34)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + "\n".join(f"line {n} é" for n in range(10_000)).encode())
    began = time.monotonic()
    assert log_tail(tmp_path, 3) == [f"line {n} é" for n in (9997, 9998, 9999)]
    assert len(log_tail(tmp_path, 10**9)) < 10_000 and time.monotonic() - began < 5
