"""Lists of runs that are drawn again and again: each run is one line, whatever became of it, and looking disturbs nobody."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import many_runs
import pytest

from rlr_core.cli import main
from rlr_core.config import RunConfig, to_toml
from rlr_core.errors import RunError, StorageError
from rlr_core.runs import list_runs, log, request_stop
from rlr_core.runs.directory import RunDirectory, reserved_folder
from rlr_core.runs.state import AT_WORK, QUIET
from rlr_core.runs.worker import Worker

CONFIG = to_toml(RunConfig(), comments=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One finished run."""
    return many_runs.make_run(tmp_path / "runs" / "good", 5, CONFIG)


class Opened(Counter[str]):
    """How often a file of each name was opened; only within `with`."""

    counts: Opened | None = None

    def __enter__(self) -> Opened:
        Opened.counts = self
        return self

    def __exit__(self, *_: Any) -> None:
        Opened.counts = None


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and Opened.counts is not None and isinstance(arguments[0], (str, Path)):
        Opened.counts[Path(arguments[0]).name] += 1


sys.addaudithook(_count)

# many


def test_logs_are_read_once(tmp_path):
    """What is looked at again costs two small files a run, and no log and no config is opened."""
    size = 50
    for number in range(size):
        many_runs.make_run(tmp_path / f"run-{number:02d}", 3, CONFIG)
    with Opened() as first:
        listed = list_runs(tmp_path)
    assert first["config.toml"] == size and first["events.jsonl"] >= size
    assert [state.folder.name for state in listed] == [f"run-{number:02d}" for number in range(size)]
    assert all((state.state, state.iteration) == ("finished", 3) and state.held_out for state in listed)
    with Opened() as again:
        assert list_runs(tmp_path) == listed
    assert again == {"overview.json": size, "worker.json": size}
    log.EventLog(tmp_path / "run-07" / "events.jsonl").append("warning", message="")
    with Opened() as grown:
        list_runs(tmp_path)
    assert 1 <= grown["events.jsonl"] <= 3, (
        "of the one that has grown: where it was read to, what is new, its end"
    )


# one bad run


def without_permission(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To whoever runs the tests as root everything is permitted: the system's answer is made up."""
    stat = os.stat

    def refused(looked_at: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(looked_at).startswith(f"{path}{os.sep}"):
            raise PermissionError(errno.EACCES, "Permission denied", str(looked_at))
        return stat(looked_at, *arguments, **options)

    monkeypatch.setattr(os, "stat", refused)


def a_pipe(path: Path, _: Any) -> None:
    (path / "events.jsonl").unlink()
    os.mkfifo(path / "events.jsonl")


def a_folder(name: str) -> Callable[[Path, Any], None]:
    def damage(path: Path, _: Any) -> None:
        (path / name).unlink()
        (path / name).mkdir()

    return damage


def text(name: str, content: bytes) -> Callable[[Path, Any], None]:
    return lambda path, _: (path / name).write_bytes(content) and None


BAD = {
    "no permission": (without_permission, "it cannot be read: Permission denied"),
    "a log that is a pipe": (a_pipe, "it is no file"),
    "a log that is a folder": (a_folder("events.jsonl"), "it is no file"),
    "a config that is a folder": (a_folder("config.toml"), "config.toml"),
    "a config of tomorrow": (text("config.toml", b"[sampler]\nkind = 1\n"), "unknown key 'sampler'"),
    "a config that is no TOML": (text("config.toml", b"["), "is not TOML"),
    "a config that is no text": (text("config.toml", b"\xff\xfe\x00"), "config.toml"),
    "a config nested deeply": (text("config.toml", b"a = " + b"[" * 9999), "config.toml"),
}


@pytest.mark.skipif(os.name == "nt", reason="no pipes")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_run_is_one_line(name, folder, monkeypatch, capsys):
    damage, told = BAD[name]
    bad = many_runs.make_run(folder.parent / "bad", 5, CONFIG)
    damage(bad, monkeypatch)
    states = {state.folder.name: state for state in list_runs(folder.parent)}
    assert (states["good"].state, states["bad"].state) == ("finished", "damaged")
    assert told in states["bad"].message
    assert main(["runs", str(folder.parent)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and sum("damaged" in line for line in said) == 1


def test_what_breaks_within_us_is_one_line_too(folder, monkeypatch):
    many_runs.make_run(folder.parent / "bad", 5, CONFIG)
    state = RunDirectory.state

    def breaks(directory: RunDirectory) -> Any:
        if directory.folder.name == "bad":
            raise RecursionError("maximum recursion depth exceeded")
        return state(directory)

    monkeypatch.setattr(RunDirectory, "state", breaks)
    assert {each.folder.name: each.state for each in list_runs(folder.parent)} == {
        "good": "finished",
        "bad": "damaged",
    }


def test_what_is_no_run_is_not_listed(folder):
    root = folder.parent
    (root / "empty").mkdir()
    (root / "file").write_text("", encoding="utf-8")
    (root / "nowhere").symlink_to(root / "gone")
    assert [state.folder.name for state in list_runs(root)] == ["good"]
    (root / "loop").symlink_to(root / "loop")
    assert {each.folder.name: each.state for each in list_runs(root)} == {
        "good": "finished",
        "loop": "damaged",
    }
    assert list_runs(root / "gone") == []
    with pytest.raises(RunError, match="cannot be read: Not a directory"):
        list_runs(root / "file")


# a state


HERE, ELSEWHERE = Worker.of(), dataclasses.replace(Worker.of(), host="elsewhere")
WORKERS = {
    "none": None,
    "lives, has let go": HERE,
    "lives, works": dataclasses.replace(HERE, works=True),
    "died at work": dataclasses.replace(HERE, works=True, started=1.0, uptime=-9.0),
    "no process can be": dataclasses.replace(HERE, works=True, pid=2**70),
    "works elsewhere": dataclasses.replace(ELSEWHERE, works=True),
}
ENDS = {
    "": "interrupted",
    "launched": "interrupted",
    "iteration": "interrupted",
    "resumed": "interrupted",
} | {end: end for end in ("queued", "finished", "stopped", "failed")}


def expected(worker: str, last: str) -> str:
    if worker in ("lives, works", "works elsewhere"):
        return "running"
    if worker == "lives, has let go" and last == "launched":
        return "starting"  # a process that was just started, and has not taken it up yet
    return ENDS[last]


@pytest.mark.parametrize("worker", WORKERS)
def test_the_state(worker, tmp_path):
    """By the last event, and by whoever says that he works on it, if he lives."""
    directory = RunDirectory(tmp_path)
    directory.config_file.write_text(CONFIG, encoding="utf-8")
    if WORKERS[worker]:
        WORKERS[worker].write(directory.worker_file)
    for last in ENDS:
        facts = {"message": "why", "iteration": 1, "reward": 0.5, "after": 0}
        lines = [json.dumps({"seq": 1, "type": last, **facts}) + "\n"] if last else []
        directory.events_file.write_text("".join(lines), encoding="utf-8")
        assert directory.state().state == expected(worker, last), last
        assert directory.is_active == (expected(worker, last) in AT_WORK)


def test_a_worker_elsewhere_that_writes_no_more(folder):
    """Whether it lives can only be told there; its silence tells something."""
    directory = RunDirectory(folder)
    WORKERS["works elsewhere"].write(directory.worker_file)
    assert directory.state().state == "running"
    for quiet, state in ((QUIET - 60, "running"), (QUIET + 60, "finished")):
        for file in (directory.events_file, directory.worker_file):
            os.utime(file, (time.time() - quiet,) * 2)
        assert directory.state().state == state
    directory.worker_file.write_text("{", encoding="utf-8")
    assert directory.state().state == "finished", "a note that cannot be read"


# who looks, who writes


@pytest.fixture
def polled(folder: Path) -> Iterator[Path]:
    """Two others look at all runs without a pause."""
    looks, over, wrong = [0, 0], threading.Event(), []

    def poll(mine: int) -> None:
        while not over.is_set():
            wrong.extend(state.message for state in list_runs(folder.parent) if state.state == "damaged")
            looks[mine] += 1

    pollers = [threading.Thread(target=poll, args=(k,)) for k in range(2)]
    for poller in pollers:
        poller.start()
    yield folder
    over.set()
    for poller in pollers:
        poller.join()
    assert min(looks) > 0 and not wrong


def test_who_looks_keeps_no_run_from_its_folder(polled):
    """Each resume takes the lock at once or not at all."""
    directory = RunDirectory(polled)
    for _ in range(30):
        with directory.held(0):
            log.EventLog(directory.events_file).go_back(1)
    assert directory.state().state == "interrupted"


def test_who_looks_leaves_nothing_behind(folder):
    before = {path.name for path in folder.iterdir()}
    list_runs(folder.parent)
    assert {path.name for path in folder.iterdir()} - before == {"overview.json"}
    assert not request_stop(folder) and not (folder / "run.lock").exists()


def test_eight_starts_at_once_get_eight_folders(tmp_path):
    together, found = threading.Barrier(8), []

    def start() -> None:
        together.wait()
        found.append(reserved_folder(tmp_path / "runs", "run"))

    starts = [threading.Thread(target=start) for _ in range(8)]
    for each in starts:
        each.start()
    for each in starts:
        each.join()
    assert sorted(path.name for path in found) == [f"run-{number:03d}" for number in range(1, 9)]
    assert all(path.is_dir() for path in found)


@pytest.mark.skipif(os.name == "nt", reason="no links")
def test_runs_that_are_a_link_to_nowhere(tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "gone")
    with pytest.raises(StorageError, match="a file is in the way"):
        reserved_folder(tmp_path / "runs", "run")


# the command


def test_rlr_runs_loads_no_torch(folder):
    """It answers at once; so does what a view asks for again and again."""
    code = (
        "import sys; from pathlib import Path; from rlr_core.cli import main; from rlr_core import runs\n"
        f"main(['runs', {str(folder.parent)!r}]); runs.follow(Path({str(folder)!r})).new()\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'safetensors', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, loaded = done.stdout.splitlines()
    assert "finished" in listed and "score" in listed and loaded == "[]"
