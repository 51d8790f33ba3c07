"""Runs that wait for their turn: in order, one at a time, and none is lost whatever happens to the file that says in which."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("diffusers")

import runs as tiny_runs
from safetensors.torch import save_file

from rlr_core import config, runs
from rlr_core.cli import main
from rlr_core.errors import CheckpointError, RunError
from rlr_core.runs import Queue, detached, launching, log
from rlr_core.runs.__main__ import main as work
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.worker import Worker


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return tiny_runs.workshop(tmp_path_factory.mktemp("workshop"))


class Spawned:
    """Processes that sleep, in the place of workers."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.sleepers: list[subprocess.Popen[bytes]] = []

    def __call__(self, arguments: list[str], output: Path) -> int:
        self.runs.append(Path(arguments[-1]).name)
        self.sleepers.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]))
        return self.sleepers[-1].pid

    def die(self) -> None:
        for sleeper in self.sleepers:
            sleeper.kill()
            sleeper.wait()


@pytest.fixture
def spawned(monkeypatch):
    workers = Spawned()
    monkeypatch.setattr(launching, "spawn", workers)
    yield workers
    workers.die()


@pytest.fixture
def settings(tmp_path) -> config.RunConfig:
    """Of a run that waits, and for which nothing has to be there yet."""
    return tiny_runs.config(tmp_path / "nowhere")


@pytest.fixture
def queue(tmp_path) -> Queue:
    return Queue(tmp_path / "all runs ü")


def state(folder: Path) -> str:
    return RunDirectory(folder).state().state


def names(queue: Queue) -> list[str]:
    return [folder.name for folder in queue.waiting()]


def finish(folder: Path) -> None:
    """As if the run had come to its end, and its worker with it."""
    log.EventLog(folder / "events.jsonl").append("finished")
    (folder / "worker.json").unlink()


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# in and out


def test_runs_wait_in_the_order_in_which_they_came(queue, settings):
    folders = [queue.add(settings, name) for name in ("a", "b", "a")]
    assert folders == [queue.root / name for name in ("a-001", "b-001", "a-002")] == queue.waiting()
    assert [each.state for each in runs.list_runs(queue.root)] == ["queued"] * 3
    assert RunDirectory(folders[0]).config == launching.startable(settings)
    assert log.read(folders[0] / "events.jsonl")[0]["type"] == "queued"
    assert not RunDirectory(folders[0]).is_active and not runs.request_stop(folders[0])
    queue.move(folders[2], 0)
    assert names(queue) == ["a-002", "a-001", "b-001"]
    queue.move(folders[2], 99)
    assert names(queue) == ["a-001", "b-001", "a-002"]
    queue.remove(folders[1])
    assert names(queue) == ["a-001", "a-002"] and not folders[1].exists()
    with pytest.raises(RunError, match="no run in"):
        queue.move(folders[1], 0)


def test_the_lora_that_a_waiting_run_goes_on_from_is_copied(queue, settings, tmp_path):
    import torch

    wrong = replace(settings, lora=replace(settings.lora, start=str(tmp_path / "no.safetensors")))
    with pytest.raises(CheckpointError, match=r"no\.safetensors"):
        queue.add(wrong)
    assert not queue.root.exists()
    start = tmp_path / "start.safetensors"
    save_file({"x": torch.ones(2)}, start)
    folder = queue.add(replace(settings, lora=replace(settings.lora, start=str(start))))
    start.unlink()
    assert Path(RunDirectory(folder).config.lora.start).is_file()
    queue.remove(folder)
    assert not folder.exists()


def test_what_is_not_ours_stays_when_a_waiting_run_is_removed(queue, settings):
    folder = queue.add(settings)
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "start").mkdir()
    (folder / "start" / "mine.safetensors").touch()
    queue.remove(folder)
    assert sorted(path.name for path in folder.rglob("*")) == ["mine.safetensors", "notes.txt", "start"]
    assert not queue.waiting() and not runs.list_runs(queue.root)


def test_a_run_of_another_folder_does_not_wait_here(queue, settings, tmp_path):
    elsewhere = Queue(tmp_path / "others").add(settings)
    for act in (queue.resume, queue.remove, lambda folder: queue.move(folder, 0)):
        with pytest.raises(RunError, match="a run in that folder"):
            act(elsewhere)
    assert state(elsewhere) == "queued"


# taking turns


def test_one_run_at_a_time(queue, settings, spawned):
    first, second = (queue.add(settings) for _ in range(2))
    assert queue.advance() == first and state(first) == "starting"
    assert queue.advance() is None and spawned.runs == [first.name]
    assert names(queue) == [second.name]
    finish(first)
    assert queue.advance() == second and queue.advance() is None
    finish(second)
    assert queue.advance() is None and spawned.runs == [first.name, second.name]
    assert not queue.waiting()


def test_a_run_that_was_started_by_hand_is_waited_for(queue, settings, spawned):
    by_hand = runs.launch(settings, queue.root / "by hand")
    waits = queue.add(settings)
    assert queue.advance() is None
    assert json.loads(queue.file.read_text(encoding="utf-8"))["last"] == "by hand", "it is looked at first"
    finish(by_hand)
    assert queue.advance() == waits


def test_a_worker_elsewhere_keeps_no_card_of_ours(queue, settings, spawned):
    other = runs.launch(settings, queue.root / "other")
    replace(Worker.of(), host="elsewhere", works=True).write(other / "worker.json")
    waits = queue.add(settings)
    assert queue.advance() == waits


def test_a_run_that_died_is_not_started_again_by_itself(queue, settings, spawned):
    first, second = (queue.add(settings) for _ in range(2))
    queue.advance()
    spawned.die()
    assert queue.advance() == second and state(first) == "interrupted"
    queue.resume(first)
    assert names(queue) == [first.name] and state(first) == "queued"
    queue.resume(first)
    assert names(queue) == [first.name], "once"


def test_a_run_that_cannot_be_started_has_failed_and_the_next_one_is_tried(queue, settings, spawned):
    gone, cut, fine = (queue.add(settings) for _ in range(3))
    for file in gone.iterdir():
        file.unlink()
    gone.rmdir()
    (cut / "config.toml").write_text('[model]\ncheckpoint = "emb', encoding="utf-8")
    assert queue.advance() == fine and spawned.runs == [fine.name]
    told = RunDirectory(cut).state()
    assert log.read(cut / "events.jsonl")[-1]["type"] == "failed" and "was cut off" in str(
        log.read(cut / "events.jsonl")[-1]["message"]
    )
    assert told.state in ("failed", "damaged") and not queue.waiting()


def test_a_system_that_starts_no_process(queue, settings, tmp_path, monkeypatch):
    folder = queue.add(settings)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert queue.advance() is None and state(folder) == "failed"
    assert "no process could be started" in RunDirectory(folder).state().message
    assert [event["type"] for event in log.read(folder / "events.jsonl")] == ["queued", "launched", "failed"]


def test_a_waiting_run_that_somebody_takes_up_himself_waits_no_more(queue, settings, spawned):
    first, second = (queue.add(settings) for _ in range(2))
    runs.launch_resume(first)
    assert names(queue) == [second.name] and queue.advance() is None
    finish(first)
    assert queue.advance() == second and spawned.runs == [first.name, second.name]


def test_a_waiting_run_that_cannot_be_written_now_waits_on(queue, settings, spawned, monkeypatch):
    first, second = (queue.add(settings) for _ in range(2))
    monkeypatch.setattr("rlr_core.runs.directory.PATIENCE", 0.0)
    held = RunDirectory.held

    def refusing(self: RunDirectory, patience: float = 0.0) -> Any:
        if self.folder == first:
            raise RunError("a folder", "one that can be written", "wait")
        return held(self, patience)

    monkeypatch.setattr(RunDirectory, "held", refusing)
    assert queue.advance() == second and names(queue) == [first.name]


def test_callers_at_the_same_moment_start_one(queue, settings, spawned):
    for _ in range(3):
        queue.add(settings)
    begin, started = threading.Barrier(6), []

    def call() -> None:
        begin.wait()
        started.append(Queue(queue.root).advance())

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([each for each in started if each]) == 1 and len(spawned.runs) == 1


CALLER = """
import subprocess, sys, time
from pathlib import Path
from rlr_core.runs import Queue, launching

launching.spawn = lambda *_: subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]).pid
root, ready = map(Path, sys.argv[1:])
ready.touch()
while not (root / "go").exists():
    time.sleep(0.001)
print(Queue(root).advance())
"""


def test_processes_at_the_same_moment_start_one(queue, settings, tmp_path):
    first, second = (queue.add(settings) for _ in range(2))
    ready = [tmp_path / str(number) for number in range(3)]
    callers = [
        subprocess.Popen(
            [sys.executable, "-c", CALLER, queue.root, file],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8", env=detached.environment(),
        )
        for file in ready
    ]  # fmt: skip
    wait_for(lambda: all(file.exists() for file in ready))
    (queue.root / "go").touch()
    said = sorted(caller.stdout.readline().strip() for caller in callers if caller.stdout)
    worker = RunDirectory(first).worker
    assert worker
    psutil.Process(worker.pid).kill()
    assert said == sorted(["None", "None", str(first)])
    assert [event["type"] for event in log.read(first / "events.jsonl")] == ["queued", "launched"]
    assert state(second) == "queued"


# a run that had begun


def test_a_run_that_had_begun_is_not_deleted(queue, settings, spawned):
    folder = queue.add(settings)
    queue.advance()
    log.EventLog(folder / "events.jsonl").append("iteration", iteration=1, reward=0.5)
    spawned.die()
    assert state(folder) == "interrupted"
    queue.resume(folder)
    queue.remove(folder)
    assert state(folder) == "stopped" and log.read(folder / "events.jsonl")[-1]["iteration"] == 1
    assert not queue.waiting()
    queue.resume(folder)
    assert names(queue) == [folder.name]


def test_what_does_not_wait_for_a_turn(queue, settings, spawned):
    folder = queue.add(settings)
    queue.advance()
    with pytest.raises(RunError, match="does not wait"):
        queue.remove(folder)
    finish(folder)
    with pytest.raises(RunError, match="is finished"):
        queue.resume(folder)


# the file that says in which order


@pytest.mark.parametrize(
    "written", [None, "", "{", "[]", '{"waiting": [".."], "last": ""}', '{"waiting": [1], "last": 2}']
)
def test_a_queue_that_cannot_be_read_loses_no_run(written, queue, settings, spawned):
    folders = [queue.add(settings) for _ in range(3)]
    for age, folder in enumerate((folders[1], folders[2], folders[0])):
        os.utime(folder / "events.jsonl", (1e9 + age, 1e9 + age))
    queue.file.unlink() if written is None else queue.file.write_text(written, encoding="utf-8")
    assert queue.waiting() == [folders[1], folders[2], folders[0]], "in order of time"
    queue.move(folders[0], 1)
    assert queue.waiting() == [folders[1], folders[0], folders[2]]
    added = queue.add(settings)
    assert queue.waiting()[-1] == added and queue.advance() == folders[1]


def test_a_folder_without_a_queue_is_left_as_it_is(queue, settings, spawned):
    assert queue.advance() is None and not queue.waiting() and not queue.root.exists()
    finish(runs.launch(settings, queue.root / "run"))
    before = sorted(queue.root.rglob("*"))
    assert queue.advance() is None and sorted(queue.root.rglob("*")) == before


def test_a_queue_that_somebody_changes_is_said_to_be(queue, settings, monkeypatch):
    monkeypatch.setattr("rlr_core.runs.queue.PATIENCE", 0.1)
    folder = queue.add(settings)
    with queue._locked(), pytest.raises(RunError, match="in use by another process"):
        Queue(queue.root).move(folder, 0)


def test_a_view_may_ask_every_second(queue, settings, spawned, monkeypatch):
    """With 1,000 runs that are over, no other than the one at work is looked at."""
    for number in range(1000):
        folder = queue.root / f"old-{number:04d}"
        folder.mkdir(parents=True)
        (folder / "events.jsonl").write_text('{"seq": 1, "type": "finished"}\n', encoding="utf-8")
        Worker.of(works=False).write(folder / "worker.json")
    assert queue.advance() is None
    queue.add(settings), queue.add(settings)
    queue.advance()
    looked: list[Path] = []
    read = Worker.read

    def counted(file: Path) -> Worker | None:
        looked.append(file)
        return read(file)

    monkeypatch.setattr(Worker, "read", counted)
    assert queue.advance() is None
    assert {file.parent.name for file in looked} == {spawned.runs[0]}


def test_a_view_needs_no_torch(queue, settings):
    queue.add(settings)
    code = (
        "import sys; from pathlib import Path; from rlr_core.runs import Queue\n"
        f"assert Queue(Path({str(queue.root)!r})).waiting()\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# workers


def test_workers_go_on_with_the_queue_by_themselves(queue, workshop):
    """One is started, and nobody looks any more; that it fails does not keep the next one from its turn."""
    short = tiny_runs.config(workshop, training__iterations=1, output__evaluation=0)
    bad = tiny_runs.config(workshop, training__prompts_per_batch=3)
    folders = [queue.add(settings) for settings in (bad, short)]
    assert queue.advance() == folders[0]
    wait_for(lambda: [state(folder) for folder in folders] == ["failed", "finished"])


def test_a_worker_that_is_told_to_stop_by_the_system_begins_nothing_more(
    queue, settings, spawned, monkeypatch
):
    first, second = (queue.add(settings) for _ in range(2))
    queue.advance()
    monkeypatch.setattr("rlr_core.runs.__main__._stop_when_told", lambda told: told.set())
    monkeypatch.setattr("rlr_core.runs.__main__.go_on", lambda *arguments, **options: finish(first))
    assert work(first) == 0
    assert state(first) == "finished" and names(queue) == [second.name] and len(spawned.runs) == 1


# the command


def test_rlr_queue(workshop, tmp_path, monkeypatch, capsys, spawned):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(config.to_toml(tiny_runs.config(workshop)), encoding="utf-8")
    assert main(["queue"]) == 0 and "nothing waits in runs" in capsys.readouterr().out
    assert main(["queue", "add", "tiny.toml"]) == 0
    assert "runs/tiny-001 is at work" in capsys.readouterr().out
    assert main(["train", "tiny.toml", "--queue"]) == 0
    assert "runs/tiny-002 waits for its turn" in capsys.readouterr().out
    assert main(["queue", "add", "tiny.toml"]) == 0
    assert main(["queue", "move", "runs/tiny-003", "1"]) == 0
    capsys.readouterr()
    assert main(["queue"]) == 0
    said = capsys.readouterr().out
    assert said.index("1  runs/tiny-003") < said.index("2  runs/tiny-002")
    assert main(["queue", "remove", "runs/tiny-002"]) == 0 and not Path("runs/tiny-002").exists()
    assert main(["queue", "run"]) == 0
    assert "nothing was started" in capsys.readouterr().out
    finish(Path("runs/tiny-001"))
    assert main(["queue", "run"]) == 0 and "runs/tiny-003" in capsys.readouterr().out
    spawned.die()
    assert main(["resume", "runs/tiny-003", "--queue"]) == 0
    assert spawned.runs == ["tiny-001", "tiny-003", "tiny-003"]
    assert main(["train", "tiny.toml", "--queue", "--run", "here"]) == 2
    assert "--queue" in capsys.readouterr().err


def test_a_run_in_the_foreground_goes_on_with_the_queue(workshop, tmp_path, monkeypatch, spawned):
    monkeypatch.chdir(tmp_path)
    settings = tiny_runs.config(workshop, training__iterations=1, output__evaluation=0)
    Path("tiny.toml").write_text(config.to_toml(settings), encoding="utf-8")
    waits = Queue().add(settings)
    assert main(["train", "tiny.toml"]) == 0
    assert spawned.runs == [waits.name]
