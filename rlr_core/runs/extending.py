"""More iterations for a run that is over: what it learned, its comparison with the start and its folder stay its own."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from rlr_core.config import RunConfig
from rlr_core.errors import ConfigError, RunError
from rlr_core.runs import log
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.export import numbered
from rlr_core.runs.resuming import restore_config, resumption
from rlr_core.storage import write_atomically

MOST = 10**9
"""Iterations of a run."""


def lengthen(folder: Path, iterations: int) -> RunConfig:
    """Give a run that nobody works on `iterations` more than it was to have; `resume` then goes on with it.

    With a constant learning rate the LoRA becomes, to the bit on a CPU, that of a run which was to be so long from the start
    (a cosine schedule would have been slower in falling). The LoRA of a finished run stays, under the number of its iteration.
    Returns the config as it is now. Raises `RunError` for a run at work, and for one that cannot go on.
    """
    directory = RunDirectory.open(folder)
    _refuse_number(iterations)
    with directory.held():
        restore_config(directory)
        config = _lengthened(directory, iterations)
        if directory.finished:
            _keep_result(directory, config)
        # the log first: a run whose last word is "finished" is not gone on with
        log.EventLog(directory.events_file).append("extended", iterations=config.training.iterations)
        directory.rewrite(config)
    return config


def _refuse_number(iterations: int) -> None:
    if not 0 < iterations <= MOST:
        raise ConfigError(f"--iterations {iterations}", f"how many more, from 1 to {MOST}", "correct it")


def _lengthened(directory: RunDirectory, iterations: int) -> RunConfig:
    found = resumption(directory).found.checkpoint
    config = directory.config
    if found is None:
        raise RunError(
            f"the run {directory.folder} has no checkpoint to go on from",
            "a run that has trained",
            "start a new run, with more training.iterations",
        )
    if found.trainer["watch"]["raised"] and config.alarm.action == "rollback":
        raise RunError(
            f"the alarm has ended the run {directory.folder} at iteration {found.iteration}",
            "a run that may go on",
            f"set alarm.action = warn in {directory.config_file}, or start a new run from its LoRA (lora.start)",
        )
    training = dataclasses.replace(
        config.training, iterations=max(config.training.iterations, found.iteration) + iterations
    )
    return dataclasses.replace(config, training=training)


def _keep_result(directory: RunDirectory, config: RunConfig) -> None:
    """The LoRA as it was when the run was finished: another one will take its name."""
    lora = directory.folder / f"{config.output.name}.safetensors"
    kept = numbered(lora, directory.state().iteration)
    if os.path.isfile(lora) and not os.path.lexists(kept):
        write_atomically(kept, lambda temporary: shutil.copyfile(lora, temporary))
