"""Which run a queued graph is: a new one, one that was stopped and goes on, or one that is finished already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rlr_core.config import RunConfig
from rlr_core.config.changes import changes
from rlr_core.errors import RLRError
from rlr_core.runs import RunDirectory
from rlr_core.runs.directory import free_folder

FRESH, ON = "always start afresh", "go on where it was stopped"
LOOKED_AT = 100
"""Runs, the newest first."""


def run_for(parent: Path, config: RunConfig, *, fresh: bool) -> RunDirectory:
    """The newest run of this config, unless `fresh`; else a folder for a new one.

    Until it is finished, settings that a run may go on with may differ. An edited file of a reward makes another run.
    """
    known = () if fresh else _newest(parent)
    return next((run for run in known if _fits(run, config)), RunDirectory(free_folder(parent, "run")))


def _newest(parent: Path) -> Iterator[RunDirectory]:
    folders = sorted((file.parent for file in parent.glob("*/config.toml")), key=_age, reverse=True)
    for folder in folders[:LOOKED_AT]:
        try:
            yield RunDirectory.open(folder)
        except RLRError:
            continue


def _age(folder: Path) -> float:
    return folder.stat().st_mtime


def _fits(run: RunDirectory, config: RunConfig) -> bool:
    try:
        different = changes(run.config, config)
        finished = run.finished
    except RLRError:
        return False
    same = not different if finished else all(change.allowed for change in different)
    return same and not run.is_active and not _edited(run, config)


def _edited(run: RunDirectory, config: RunConfig) -> bool:
    """Whether a file of a reward is newer than what the run learned from it."""
    names = [config.reward.name, config.reward.held_out, *config.reward.mix, *config.reward.watch]
    files = [Path(name[: name.rindex(".py") + 3]) for name in names if ".py" in name]
    since = run.config_file.stat().st_mtime
    return any(file.is_file() and file.stat().st_mtime > since for file in files)
