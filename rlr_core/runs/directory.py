"""A run's folder: where everything is, who holds it, and what state it is in.

config.toml              everything that defines the run
events.jsonl             what happened, append-only
start/                   the LoRA file that the run goes on from, if it does
worker.json, worker.log  who works on it, or was the last to; what a process that was started for it printed
run.id                   tells its checkpoints from those of another run
checkpoints/000010.pt    config, LoRA, optimizer, estimator, iteration
previews/000010.png      pictures at fixed prompts and seeds
<name>.safetensors       the LoRA
before_after.png, reward.png, report.html
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rlr_core.config import RunConfig, load, to_toml
from rlr_core.errors import RLRError, RunError
from rlr_core.file_names import name_problem
from rlr_core.runs import log
from rlr_core.runs.checkpoints import Checkpoints
from rlr_core.runs.worker import Worker
from rlr_core.storage import TEMPORARY, leftovers, storing, write_atomically, write_text

RUNS = Path("runs")
"""Where runs are that are given no folder."""
BEGUN = {"run.lock", "worker.json", "worker.log", "stop", "start"}
"""What a folder has already when a run in it is about to begin, or was killed before its config was written."""
FOLDERS = ("", "checkpoints", "previews", "start")
"""Where a run writes."""
PATIENCE, GLANCE = 1.0, 0.05
"""Seconds for which a run waits for its folder, and a view before it believes it held: views look by taking the lock."""


@dataclass(frozen=True)
class RunState:
    """A run as its folder tells it.

    Attributes:
        state: "starting" (a process is about to take it up), "running", "finished", "stopped", "failed", "interrupted"
            (killed, power lost), or "damaged".
        iteration: of `iterations`.
        first, latest: mean reward of the first and the latest iteration, None before there are any.
        message: why it failed, what raised the alarm, or what is damaged.
        worker: who works on it, or was the last to.
    """

    folder: Path
    state: str
    iteration: int
    iterations: int
    first: float | None
    latest: float | None
    message: str
    worker: Worker | None = None


class RunDirectory:
    """The folder of one run."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.config_file = self.folder / "config.toml"
        self.events_file = self.folder / "events.jsonl"
        self.identity_file = self.folder / "run.id"
        self.checkpoints = Checkpoints(self.folder / "checkpoints")
        self.previews = self.folder / "previews"
        self.stop_file = self.folder / "stop"
        self.worker_file = self.folder / "worker.json"
        self.worker_log = self.folder / "worker.log"
        self._lock = FileLock(self.folder / "run.lock")

    def refuse_if_taken(self) -> None:
        """A new run wants a folder of its own: it would overwrite what is called like its files."""
        names = self._names()
        if {self.config_file.name, self.events_file.name} & set(names):
            raise RunError(
                f"the run folder {self.folder} is already in use",
                "a new or empty folder",
                f"choose another with --run, or go on with it: rlr resume {self.folder}",
            )

        strange = [name for name in names if name not in BEGUN and not TEMPORARY.fullmatch(name)]
        if strange:
            raise RunError(
                f"the folder {self.folder} has something else in it, such as {strange[0]}",
                "a new or empty folder",
                "choose another with --run",
            )

    def _names(self) -> list[str]:
        """Of what is in the folder; none where it is not there yet."""
        if os.path.lexists(self.folder) and not os.path.isdir(self.folder):
            raise RunError(
                f"{self.folder} is no folder", "a new or empty folder", "choose another with --run"
            )
        with storing(self.folder), suppress(FileNotFoundError):
            return sorted(os.listdir(self.folder))
        return []

    def refuse_if_finished(self) -> None:
        """Nothing is left to do."""
        if self.finished:
            raise RunError(
                f"the run {self.folder} is finished",
                "a run that has something left to do",
                "start a new one",
            )

    def create(self, config: RunConfig) -> None:
        """Write the config, and beside it the LoRA file that it goes on from. The lock is held by the caller."""
        self.refuse_if_taken()
        if config.lora.start:
            copy = self._kept(config.lora.start)
            write_atomically(copy, lambda temporary: shutil.copyfile(config.lora.start, temporary))
            config = _starting_from(config, copy)
        self.rewrite(config)

    def rewrite(self, config: RunConfig) -> None:
        """Go on with another config. The lock is held by the caller."""
        write_text(self.config_file, to_toml(config, comments=False))

    @classmethod
    def open(cls, folder: Path) -> RunDirectory:
        """An existing run. Raises `RunError` if the folder holds none."""
        directory = cls(folder)
        began = any(map(os.path.exists, (directory.events_file, directory.worker_file)))
        known = os.path.exists(directory.config_file) or directory.checkpoints.exist
        if not began or not known:  # a config alone may be anybody's
            raise RunError(
                f"no run in {folder}",
                "a folder with a config.toml that rlr train made",
                "`rlr runs` lists them",
            )
        return directory

    @property
    def config(self) -> RunConfig:
        """The run's config; it goes on from the LoRA file in this folder, which may be a copy of the run's, or moved."""
        config = load(self.config_file)
        kept = self._kept(config.lora.start)
        return _starting_from(config, kept) if config.lora.start and os.path.isfile(kept) else config

    @property
    def identity(self) -> str:
        """By which its checkpoints know the run; "" before `identify` made one, and where it was lost."""
        return (
            self.identity_file.read_text("utf-8", "replace").strip() if self.identity_file.is_file() else ""
        )

    def identify(self, identity: str = "") -> str:
        """Give a run that has no identity `identity`, of one of its checkpoints, or a new one; returns what it has then."""
        if not self.identity:
            write_text(self.identity_file, (identity or uuid.uuid4().hex) + "\n")
        return self.identity

    def _kept(self, start: str) -> Path:
        """Where the folder has its copy of `lora.start`."""
        return self.folder.absolute() / "start" / Path(start).name

    @contextmanager
    def held(self, patience: float = PATIENCE) -> Iterator[None]:
        """Hold the folder, so that no two processes write it; the operating system lets go of it when we die.

        Leaves a note of who holds it. Raises `RunError` where another process does for `patience` seconds.
        """
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with storing(self.folder):
                self._lock.acquire(timeout=patience)
        except Timeout:
            raise RunError(
                f"the run folder {self.folder} is already in use by another process",
                "a run that nobody is working on",
                f"wait for it, or stop it: rlr stop {self.folder}",
            ) from None
        try:
            Worker.of().write(self.worker_file)
            yield
        finally:
            self._lock.release()

    @property
    def is_held(self) -> bool:
        """Whether a process is working on the run."""
        if not os.path.exists(self.folder):
            return False
        try:
            with FileLock(self.folder / "run.lock", timeout=GLANCE, poll_interval=GLANCE / 5):
                return False
        except Timeout:
            return True

    @property
    def is_active(self) -> bool:
        """Whether a process works on the run, or is about to."""
        return self.is_held or self._word(False, self._last) in ("starting", "running")

    @property
    def is_launched(self) -> bool:
        """Whether a process was started for the run that has not taken it up yet."""
        return self._last == "launched"

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return self._last == "finished"

    @property
    def _last(self) -> str:
        """The type of the last event; "" before there is any."""
        return _last_type(log.read(self.events_file))

    def remove_leftovers(self) -> None:
        """Delete what a killed process left half written, and an old request to stop."""
        with storing(self.folder):
            for name in FOLDERS:
                for path in leftovers(self.folder / name):
                    path.unlink(missing_ok=True)
            self.stop_file.unlink(missing_ok=True)

    def state(self) -> RunState:
        """What the folder tells of the run."""
        held = self.is_held  # first: a run that is over by now has written its last event
        events = log.read(self.events_file)
        iterations = [event for event in events if event["type"] == "iteration"]
        done = max(
            (event["iteration"] for event in events if event["type"] in ("iteration", "skipped")), default=0
        )
        word = self._word(held, _last_type(events))
        return RunState(
            folder=self.folder,
            state=word,
            iteration=done,
            iterations=self.config.training.iterations,
            first=iterations[0]["reward"] if iterations else None,
            latest=iterations[-1]["reward"] if iterations else None,
            message=_message(events) or (self._vanished(events) if word == "interrupted" else ""),
            worker=self.worker,
        )

    @property
    def worker(self) -> Worker | None:
        """Who works on the run, or was the last to."""
        return Worker.read(self.worker_file)

    def _word(self, held: bool, last: str) -> str:
        """The state, where `last` is the type of the last event, read after the lock was looked at."""
        if held:
            return "running"
        if last in ("finished", "stopped", "failed"):
            return last
        worker = self.worker
        if last == "launched" and worker and worker.lives:
            return "starting"
        return "running" if self.is_held else "interrupted"  # it may have been taken up in between

    def _vanished(self, events: list[dict[str, Any]]) -> str:
        """What can be told of a run whose worker left without a word. The lock says that it did: of this computer's alone."""
        worker = self.worker
        if worker and not worker.is_here:
            return f"process {worker.pid} of the computer {worker.host} took it up; only there can be told whether it lives"
        if _last_type(events) == "launched":
            return f"the process that was started for it is gone; {self.worker_log} has its output"
        return ""


def _last_type(events: list[dict[str, Any]]) -> str:
    return events[-1]["type"] if events else ""


def _message(events: list[dict[str, Any]]) -> str:
    """Why the run failed, or else what raised the alarm."""
    told = [event for event in events if event["type"] == "alarm"] + events[-1:]
    return next((event["message"] for event in reversed(told) if event["type"] in ("alarm", "failed")), "")


def _starting_from(config: RunConfig, start: Path) -> RunConfig:
    return dataclasses.replace(config, lora=dataclasses.replace(config.lora, start=str(start)))


def list_runs(root: Path) -> list[RunState]:
    """All runs in the folder `root`, the oldest first."""
    folders = [path.parent for path in root.glob("*/config.toml")]
    return [_state_of(folder) for folder in sorted(folders, key=os.path.getmtime)]


def _state_of(folder: Path) -> RunState:
    try:
        return RunDirectory(folder).state()
    except RLRError as error:
        return RunState(folder, "damaged", 0, 0, None, None, str(error))


def free_folder(root: Path, name: str) -> Path:
    """`root/name-001`, or the next number that is free. Raises `RunError` for a name that no folder can have."""
    if problem := name_problem(name):
        raise RunError(f"a run called '{name}': {problem}", "a plain name", "choose a folder with --run")
    number = next(n for n in range(1, 100_000) if not os.path.lexists(root / f"{name}-{n:03d}"))
    return root / f"{name}-{number:03d}"


def reserved_folder(root: Path, name: str) -> Path:
    """Make `free_folder`, so that nobody else takes it. Raises `StorageError`."""
    while True:
        folder = free_folder(root, name)
        with storing(folder), suppress(FileExistsError):  # another process was faster: the next one
            folder.mkdir(parents=True)
            return folder
