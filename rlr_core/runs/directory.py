"""A run's folder: where everything is, who holds it, and what state it is in.

config.toml              everything that defines the run
events.jsonl             what happened, append-only
start/                   the LoRA file that the run goes on from, if it does
worker.json, worker.log  who works on it, or was the last to; what a process that was started for it printed
overview.json            what the log tells, in short, for lists of runs; made again where it is not there
checkpoints/000010.pt    LoRA, optimizer, estimator, iteration
previews/000010.png      pictures at fixed prompts and seeds
<name>.safetensors       the LoRA
before_after.png, reward.png, report.html
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from rlr_core.config import RunConfig, load, to_toml
from rlr_core.errors import RLRError, RunError
from rlr_core.runs import log
from rlr_core.runs.overview import Overview
from rlr_core.runs.state import AT_WORK, RunState, look, word_for
from rlr_core.runs.worker import Worker
from rlr_core.storage import storing, write_atomically, write_text

RUNS = Path("runs")
"""Where runs are that are given no folder."""
PATIENCE = 1.0
"""Seconds for which a run waits for its folder: one that was killed a moment ago holds it until its memory is freed."""


class RunDirectory:
    """The folder of one run."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.config_file = self.folder / "config.toml"
        self.events_file = self.folder / "events.jsonl"
        self.checkpoints = self.folder / "checkpoints"
        self.previews = self.folder / "previews"
        self.stop_file = self.folder / "stop"
        self.worker_file = self.folder / "worker.json"
        self.worker_log = self.folder / "worker.log"
        self.overview_file = self.folder / "overview.json"

    def refuse_if_taken(self) -> None:
        """A new run wants a folder of its own."""
        if self.config_file.exists() or self.events_file.exists():
            raise RunError(
                f"the run folder {self.folder} is already in use",
                "a new or empty folder",
                f"choose another with --run, or go on with it: rlr resume {self.folder}",
            )

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
        if not directory.config_file.exists():
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
        return _starting_from(config, kept) if config.lora.start and kept.is_file() else config

    def _kept(self, start: str) -> Path:
        """Where the folder has its copy of `lora.start`."""
        return self.folder.absolute() / "start" / Path(start).name

    @contextmanager
    def held(self, patience: float = PATIENCE) -> Iterator[None]:
        """Hold the folder, so that no two processes write it; the operating system lets go of it when we die.

        Leaves a note of who holds it, by which views tell. Raises `RunError` where another process does for `patience`
        seconds, `StorageError` where it cannot be written.
        """
        lock = FileLock(self.folder / "run.lock")
        try:
            with storing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=patience)
        except Timeout:
            raise RunError(
                f"the run folder {self.folder} is already in use by another process",
                "a run that nobody is working on",
                f"wait for it, or stop it: rlr stop {self.folder}",
            ) from None
        me = Worker.of(works=True)
        try:
            me.write(self.worker_file)
            yield
        finally:
            try:
                self._let_go(me)
            finally:
                lock.release()

    def _let_go(self, me: Worker) -> None:
        """Leave word that nobody works on the run, unless it was handed on, and what its log tells."""
        with suppress(
            OSError, RLRError
        ):  # a full disk: the log says that the run is over, or else our death does
            if self.worker == me:
                dataclasses.replace(me, works=False).write(self.worker_file)
            self.keep_overview()

    def keep_overview(self) -> Overview:
        """What the log tells, kept for whoever looks next. Raises `RunError` where the log cannot be read."""
        overview = Overview.read(self.overview_file).follow(self.events_file).of_config(self.config_file)
        if overview.stamp:  # there is a log
            overview.save(self.overview_file)
        return overview

    @property
    def is_active(self) -> bool:
        """Whether a process works on the run, or is about to."""
        worker = self.worker  # before the log, as `word_for` wants it
        return word_for(self, worker, self._last) in AT_WORK

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
        """The type of the log's last event; "" before there is any."""
        return log.ending(self.events_file).type

    def save_checkpoint(self, iteration: int, state: dict[str, Any], keep: int) -> None:
        """Write a checkpoint, whole or not at all, then remove the oldest beyond `keep`."""
        buffer = io.BytesIO()  # torch.save would tell a full disk by a RuntimeError
        torch.save(state, buffer)
        write_atomically(
            self.checkpoints / f"{iteration:06d}.pt", lambda path: path.write_bytes(buffer.getbuffer())
        )
        for old in self._checkpoint_files()[:-keep]:
            old.unlink()

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read; None where there is none."""
        for path in reversed(self._checkpoint_files()):
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except (RuntimeError, EOFError, ValueError) as error:  # damaged by the disk: an older one will do
                log.EventLog(self.events_file).append("damaged", file=path.name, message=str(error))
        return None

    def _checkpoint_files(self) -> list[Path]:
        return sorted(path for path in self.checkpoints.glob("*.pt") if re.fullmatch(r"\d+", path.stem))

    def remove_leftovers(self) -> None:
        """Delete what a killed process left half written, and an old request to stop."""
        for path in self.folder.rglob(".*.tmp"):
            path.unlink(missing_ok=True)
        self.stop_file.unlink(missing_ok=True)

    def state(self) -> RunState:
        """What the folder tells of the run."""
        return look(self)

    @property
    def worker(self) -> Worker | None:
        """Who works on the run, or was the last to."""
        return Worker.read(self.worker_file)


def _starting_from(config: RunConfig, start: Path) -> RunConfig:
    return dataclasses.replace(config, lora=dataclasses.replace(config.lora, start=str(start)))


def free_folder(root: Path, name: str) -> Path:
    """`root/name-001`, or the next number that is free."""
    number = next(n for n in itertools.count(1) if not (root / f"{name}-{n:03d}").exists())
    return root / f"{name}-{number:03d}"


def reserved_folder(root: Path, name: str) -> Path:
    """Make `free_folder`, so that nobody else takes it. Raises `StorageError`."""
    while True:
        folder = free_folder(root, name)
        with storing(folder), suppress(FileExistsError):  # another process was faster: the next one
            folder.mkdir(parents=True)
            return folder


@contextmanager
def reserved(root: Path, name: str) -> Iterator[Path]:
    """A `reserved_folder` for a run that is about to start; where it does not, nothing is left."""
    folder = reserved_folder(root, name)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):  # the run has left something to look at
            folder.rmdir()
        raise
