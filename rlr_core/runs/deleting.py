"""Delete a run that never began: what is ours by name, so that nothing of the user's goes with it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from rlr_core.errors import RLRError
from rlr_core.runs.directory import RunDirectory
from rlr_core.storage import storing


def delete_unbegun(directory: RunDirectory) -> None:
    """Delete a run that was never more than queued; its folder stays if there is something else in it.

    Raises `RunError` where somebody has it in his hands.
    """
    with directory.held():
        copy = _own_start(directory)
        directory.remove_leftovers()
        with storing(directory.folder):
            # the log first: from then on it does not wait
            for file in (directory.events_file, directory.overview_file, directory.worker_log, *copy):
                file.unlink(missing_ok=True)
            directory.worker_file.unlink(
                missing_ok=True
            )  # so that whoever holds the folder leaves no other note
            directory.config_file.unlink(missing_ok=True)
    with suppress(OSError):  # Windows deletes no file that is open
        (directory.folder / "run.lock").unlink(missing_ok=True)
        if copy:
            copy[0].parent.rmdir()
        directory.folder.rmdir()


def _own_start(directory: RunDirectory) -> list[Path]:
    """The run's copy of the LoRA that it goes on from, if it has one."""
    with suppress(RLRError):  # a config that cannot be read
        start = Path(directory.config.lora.start)
        return [start] if start.parent == directory.folder.absolute() / "start" else []
    return []
