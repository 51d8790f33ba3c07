"""A run's folder: where everything is, who holds it, and what state it is in.

config.toml              everything that defines the run
events.jsonl             what happened, append-only
start/                   the LoRA file that the run goes on from, if it does
worker.json, worker.log  who works on it, or was the last to; what a process that was started for it printed
run.id                   tells its checkpoints from those of another run
overview.json            what the log tells, in short, for lists of runs; made again where it is not there
checkpoints/000010.pt    config, LoRA, optimizer, estimator, iteration
previews/000010.png      pictures at fixed prompts and seeds
<name>.safetensors       the LoRA; <name>-000010.safetensors that of one iteration, <name>-best.safetensors the best on the way
before_after.png, reward.png, report.html
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlr_core.config import RunConfig, load, to_toml
from rlr_core.errors import RLRError, RunError
from rlr_core.file_names import name_problem
from rlr_core.runs import log
from rlr_core.runs.checkpoints import Checkpoints
from rlr_core.runs.overview import Overview
from rlr_core.runs.state import AT_WORK, RunState, look, word_for
from rlr_core.runs.worker import Worker
from rlr_core.storage import TEMPORARY, leftovers, storing, write_atomically, write_text

RUNS = Path("runs")
"""Where runs are that are given no folder."""
BEGUN = {"run.lock", "worker.json", "worker.log", "stop", "preview-now", "save-now", "start"}
"""What a folder has already when a run in it is about to begin, or was killed before its config was written."""
FOLDERS = ("", "checkpoints", "previews", "start")
"""Where a run writes."""
PATIENCE = 1.0
"""Seconds for which a run waits for its folder: one that was killed a moment ago holds it until its memory is freed."""


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
        self.preview_file = self.folder / "preview-now"
        self.save_file = self.folder / "save-now"
        self.worker_file = self.folder / "worker.json"
        self.worker_log = self.folder / "worker.log"
        self.overview_file = self.folder / "overview.json"

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
        if not began or not (os.path.exists(directory.config_file) or directory.checkpoints.exist):
            # a config alone may be anybody's
            raise RunError(
                f"no run in {folder}",
                "a folder with a config.toml that rlr train made",
                "`rlr runs` lists them",
            )
        return directory

    @property
    def config(self) -> RunConfig:
        """The run's config; it goes on from the LoRA file in this folder, which may be a copy of the run's, or moved."""
        return self.at_home(load(self.config_file))

    def at_home(self, config: RunConfig) -> RunConfig:
        """A config of the run, wherever its folder was then, with the LoRA file's place in it as it is now."""
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

        Leaves a note of who holds it, by which views tell. Raises `RunError` where another process does for `patience`
        seconds, `StorageError` where it cannot be written.
        """
        from filelock import FileLock, Timeout  # views have no need of it, and it takes a while

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
        me, known = Worker.of(works=True), self.folder.stat()
        try:
            me.write(self.worker_file)
            yield
        finally:
            try:
                self._found(known)._let_go(me)
            finally:
                lock.release()

    def _found(self, known: os.stat_result) -> RunDirectory:
        """Itself, or where it was renamed to meanwhile: there, too, its note would say that we work on it."""
        with suppress(OSError):
            if not self.folder.is_dir():
                beside = self.folder.parent.iterdir()
                same = (each for each in beside if os.path.samestat(each.stat(), known))
                return RunDirectory(next(same, self.folder))
        return self

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
    def is_queued(self) -> bool:
        """Whether the run waits for its turn. Raises `RunError` where its log cannot be read."""
        return self._last == "queued"

    @property
    def is_extended(self) -> bool:
        """Whether the run was given more iterations that nobody has begun with."""
        return self._last == "extended"

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return self._last == "finished"

    @property
    def _last(self) -> str:
        """The type of the log's last event; "" before there is any."""
        return log.ending(self.events_file).type

    def remove_leftovers(self) -> None:
        """Delete what a killed process left half written, and old requests."""
        with storing(self.folder):
            for name in FOLDERS:
                for path in leftovers(self.folder / name):
                    path.unlink(missing_ok=True)
            for request in (self.stop_file, self.preview_file, self.save_file):
                request.unlink(missing_ok=True)

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
    """`root/name-001`, or the next number that is free. Raises `RunError` for a name that no folder can have."""
    if problem := name_problem(name):
        raise RunError(f"a run called '{name}': {problem}", "a plain name", "choose a folder with --run")
    number = next(n for n in itertools.count(1) if not os.path.lexists(root / f"{name}-{n:03d}"))
    return root / f"{name}-{number:03d}"


def reserved_folder(root: Path, name: str) -> Path:
    """Make `free_folder`, so that nobody else takes it. Raises `StorageError`."""
    folder = free_folder(root, name)
    with storing(root):
        root.mkdir(parents=True, exist_ok=True)
    while True:
        with storing(folder), suppress(FileExistsError):  # another process was faster: the next one
            folder.mkdir()
            return folder
        folder = free_folder(root, name)


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
