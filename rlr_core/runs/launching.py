"""Start a run in a process of its own, which goes on when this one ends.

Whoever looks at the folder is told what becomes of it. What can be seen at once (a folder in use, prompts or a LoRA file that
cannot be read) raises here. What shows only when everything is loaded, seconds later, is the event "failed" with its message,
as it is later on; and the process's own output, with all that libraries say, is in `worker.log`.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from rlr_core.config import RunConfig
from rlr_core.errors import RLRError, RunError
from rlr_core.runs import log
from rlr_core.runs.detached import spawn
from rlr_core.runs.directory import RUNS, RunDirectory, reserved_folder
from rlr_core.runs.resuming import restore_config, resumption
from rlr_core.runs.self_contained import self_contained
from rlr_core.runs.worker import Worker
from rlr_core.safetensors_header import read_header


def launch(config: RunConfig, folder: Path | None = None, name: str = "") -> Path:
    """Start a run from the beginning, as `start` would, and return its folder at once.

    Args:
        config: of the run.
        folder: a new or empty one; with none, `runs/NAME-001`, or the next number that is free.
        name: of that folder; by default that of the LoRA.

    Raises `RLRError` for a folder in use, and for prompts or a LoRA file that cannot be read.
    """
    config = startable(config)
    directory = RunDirectory(folder or reserved_folder(RUNS, name or config.output.name))
    directory.refuse_if_taken()
    with directory.held():
        directory.remove_leftovers()
        directory.create(config)
        _launch(directory)
    return directory.folder


def launch_resume(folder: Path) -> None:
    """Go on with a run, as `resume` would, and return at once. Raises `RunError` for one that is finished or in use.

    So it does for settings that a run cannot go on with, and where no checkpoint is whole.
    """
    directory = RunDirectory.open(folder)
    with directory.held():
        prepare_to_go_on(directory)
        _launch(directory)


def launch_queued(directory: RunDirectory) -> bool:
    """Start a run that waits for its turn; False where it does so no more, or cannot be started, of which its log then tells.

    Raises `RLRError` where its folder is in use, or cannot be written.
    """
    with directory.held():
        if not directory.is_queued:
            return False
        try:
            prepare_to_go_on(directory)
        except (OSError, RLRError) as error:
            log.EventLog(directory.events_file).failed(error)
            return False
        with suppress(RunError):  # its log has it
            _launch(directory)
            return True
    return False


def startable(config: RunConfig) -> RunConfig:
    """A config that means the same wherever it is read. Raises `RLRError` for what can be seen at once."""
    config = self_contained(config)
    if config.lora.start:
        read_header(Path(config.lora.start))
    return config


def prepare_to_go_on(directory: RunDirectory) -> None:
    """Make a run's folder ready for a worker. The lock is held by the caller. Raises `RunError` as `launch_resume` does."""
    directory.refuse_if_finished()
    restore_config(directory)
    resumption(directory)
    directory.remove_leftovers()


def _launch(directory: RunDirectory) -> None:
    """Start the worker, which waits until the caller lets go of the folder; until then nobody sees it without a worker."""
    events = log.EventLog(directory.events_file)
    events.append("launched")
    try:
        pid = spawn(["-m", "rlr_core.runs", str(directory.folder.absolute())], directory.worker_log)
    except OSError as error:
        message = f"no process could be started: {error}"
        events.append("failed", message=message)
        raise RunError(
            message, "a system that starts one", "train in this one: rlr train, rlr resume"
        ) from error
    Worker.of(pid).write(directory.worker_file)
