"""What a run goes on with: its newest checkpoint that is whole, and its config, which was edited since, cut off, or lost."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rlr_core.config import (
    Change,
    RunConfig,
    Tables,
    changes,
    free_settings,
    from_dict,
    merged,
    missing_settings,
    read_settings,
    to_dict,
)
from rlr_core.errors import ConfigError, RunError
from rlr_core.runs import log
from rlr_core.runs.checkpoints import Found
from rlr_core.runs.directory import RunDirectory


@dataclass(frozen=True)
class Resumption:
    """What a run goes on with.

    Attributes:
        found: the checkpoint.
        config: that of the folder.
        edited: settings in which it differs from the checkpoint's; a run may go on with all of them.
    """

    found: Found
    config: RunConfig
    edited: list[Change]


def resumption(directory: RunDirectory) -> Resumption:
    """Look what is there; nothing is changed. Raises `RunError` for settings that a run cannot go on with."""
    found, config = directory.checkpoints.newest(directory.identity), directory.config
    if not found.checkpoint:
        return Resumption(found, config, [])
    edited = changes(directory.at_home(found.checkpoint.config), config)
    _refuse_others([change for change in edited if not change.allowed], directory)
    _refuse_fewer(config.training.iterations, found.checkpoint.iteration, directory)
    return Resumption(found, config, edited)


def refuse_lent(config: RunConfig) -> None:
    """Raise `RunError` where a run's model was an object that a program lent it: a run's own checkpoint has a whole path."""
    name = config.model.checkpoint
    if name != "embedded" and not os.path.isabs(name) and not os.path.exists(name):
        raise RunError(
            f"this run was trained on '{name}', a model in another program's memory",
            "that program, with the same model",
            "ComfyUI: queue the same graph again; Python: resume(folder, materials=Materials(model=…))",
        )


def _refuse_others(refused: list[Change], directory: RunDirectory) -> None:
    if refused:
        raise RunError(
            f"{directory.config_file} is not as the run was made: {'; '.join(map(str, refused))}",
            f"these as they were; only {', '.join(free_settings())}, and the folders of files, may change",
            "put them back and resume, or start a new run, which lora.start lets go on from this one's LoRA",
        )


def _refuse_fewer(iterations: int, done: int, directory: RunDirectory) -> None:
    if iterations < done:
        raise RunError(
            f"training.iterations = {iterations} in {directory.config_file}, and {done} are done",
            f"{done}, to end the run there, or more",
            "correct it, and resume",
        )


def restore_config(directory: RunDirectory) -> str:
    """Give a run whose config is not there or was cut off the settings of its newest checkpoint.

    The lock is held by the caller. Returns what was done, "" where nothing had to be. Raises `RunError` where there is no
    checkpoint.
    """
    tables = _settings(directory.config_file)
    missing = missing_settings(tables)
    if not missing:
        return ""
    checkpoint = directory.checkpoints.newest(directory.identity).checkpoint
    if not checkpoint:
        raise RunError(
            f"{directory.config_file} was cut off: {len(missing)} settings are not there, such as {missing[0]}",
            "the file as the run was made, or a checkpoint, which has them all",
            "put the file back from a copy, or start a new run: nothing was trained yet",
        )
    directory.rewrite(from_dict(merged(to_dict(checkpoint.config), tables)))
    told = (
        f"{directory.config_file} was cut off or lost; {len(missing)} settings, from {missing[0]} on, "
        f"are those of the checkpoint of iteration {checkpoint.iteration}"
    )
    log.EventLog(directory.events_file).append("warning", message=told)
    return told


def _settings(file: Path) -> Tables:
    """What a run's config still says. Of a file that ends within a line, that line is believed only if nothing is missing."""
    if not file.is_file():
        return {}
    try:
        tables = read_settings(file)
        whole = not missing_settings(tables)
    except ConfigError:
        if file.read_bytes().endswith(b"\n"):
            raise
        whole, tables = False, {}
    return tables if whole else read_settings(file, torn=True)
