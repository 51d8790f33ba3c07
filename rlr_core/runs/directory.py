"""A run's folder: where everything is, who holds it, and what state it is in.

config.toml              everything that defines the run
events.jsonl             what happened, append-only
checkpoints/000010.pt    LoRA, optimizer, estimator, iteration
previews/000010.png      pictures at fixed prompts and seeds
<name>.safetensors       the LoRA
before_after.png, reward.png, report.html
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from rlr_core.config import RunConfig, load, to_toml
from rlr_core.errors import RLRError, RunError
from rlr_core.runs import log
from rlr_core.storage import storing, write_atomically, write_text


@dataclass(frozen=True)
class RunState:
    """A run as its folder tells it.

    Attributes:
        state: "running", "finished", "stopped", "failed", "interrupted" (killed, power lost), or "damaged".
        iteration: of `iterations`.
        first, latest: mean reward of the first and the latest iteration, None before there are any.
        message: why it failed, what raised the alarm, or what is damaged.
    """

    folder: Path
    state: str
    iteration: int
    iterations: int
    first: float | None
    latest: float | None
    message: str


class RunDirectory:
    """The folder of one run."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.config_file = self.folder / "config.toml"
        self.events_file = self.folder / "events.jsonl"
        self.checkpoints = self.folder / "checkpoints"
        self.previews = self.folder / "previews"
        self.stop_file = self.folder / "stop"
        self._lock = FileLock(self.folder / "run.lock")

    def refuse_if_taken(self) -> None:
        """A new run wants a folder of its own."""
        if self.config_file.exists() or self.events_file.exists():
            raise RunError(
                f"the run folder {self.folder} is already in use",
                "a new or empty folder",
                f"choose another with --run, or go on with it: rlr resume {self.folder}",
            )

    def create(self, config: RunConfig) -> None:
        """Make the folder and write the config. The lock is held by the caller."""
        self.refuse_if_taken()
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
        """The run's config."""
        return load(self.config_file)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder, so that no two processes write it; the operating system lets go of it when we die."""
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"the run folder {self.folder} is already in use by another process",
                "a run that nobody is working on",
                f"wait for it, or stop it: rlr stop {self.folder}",
            ) from None
        try:
            yield
        finally:
            self._lock.release()

    @property
    def is_held(self) -> bool:
        """Whether a process is working on the run."""
        if not self.folder.exists():
            return False
        try:
            with FileLock(self.folder / "run.lock", timeout=0):
                return False
        except Timeout:
            return True

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        events = log.read(self.events_file)
        return bool(events) and events[-1]["type"] == "finished"

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
        events = log.read(self.events_file)
        iterations = [event for event in events if event["type"] == "iteration"]
        done = max(
            (event["iteration"] for event in events if event["type"] in ("iteration", "skipped")), default=0
        )
        return RunState(
            folder=self.folder,
            state=self._state_word(events),
            iteration=done,
            iterations=self.config.training.iterations,
            first=iterations[0]["reward"] if iterations else None,
            latest=iterations[-1]["reward"] if iterations else None,
            message=_message(events),
        )

    def _state_word(self, events: list[dict[str, Any]]) -> str:
        if self.is_held:
            return "running"
        last = events[-1]["type"] if events else ""
        return last if last in ("finished", "stopped", "failed") else "interrupted"


def _message(events: list[dict[str, Any]]) -> str:
    """Why the run failed, or else what raised the alarm."""
    told = [event for event in events if event["type"] == "alarm"] + events[-1:]
    return next((event["message"] for event in reversed(told) if event["type"] in ("alarm", "failed")), "")


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
    """`root/name-001`, or the next number that is free."""
    number = next(n for n in range(1, 100_000) if not (root / f"{name}-{n:03d}").exists())
    return root / f"{name}-{number:03d}"
