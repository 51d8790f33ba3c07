"""Train in a process of its own that kills itself (SIGKILL) at a chosen point: python killed.py POINT CONFIG.toml RUN."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlr_core import config
from rlr_core.runs import directory, log, report, runner
from rlr_core.trainer import AlarmRaised


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(
    number: int, function: Callable[..., Any], last_words: Callable[..., None] | None = None
) -> Any:
    """`function`, whose call number `number` is never carried out."""
    calls = [0]

    def counted(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            if last_words:
                last_words(*arguments, **options)
            die()
        return function(*arguments, **options)

    return counted


def while_measuring() -> None:
    """In the evaluation before training, when there is no checkpoint yet: all is painted, and nothing scored."""
    runner._Recorder._record = die_at_call(2, runner._Recorder._record)


def within_an_iteration() -> None:
    """Between two denoising steps of the fourth iteration."""
    from rlr_core.trainer import Trainer

    def arm(trainer: Trainer, batch: Any) -> Any:
        if trainer.iteration == 3:
            model = type(trainer.setup.model.components[0].network)
            model.forward = die_at_call(5, model.forward)
        return original(trainer, batch)

    original = Trainer.estimate
    Trainer.estimate = arm


def while_a_checkpoint_is_written() -> None:
    """Half of the bytes of the third checkpoint are on the disk."""

    def write_half(path: Path, write: Callable[[Path], object]) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        write(temporary)
        data = temporary.read_bytes()
        temporary.write_bytes(data[: len(data) // 2])

    def only_checkpoints(path: Path, write: Callable[[Path], object]) -> None:
        (fatal if path.suffix == ".pt" else original)(path, write)

    original = directory.write_atomically
    fatal = die_at_call(3, original, write_half)
    directory.write_atomically = only_checkpoints


def after_a_checkpoint() -> None:
    """The second checkpoint is in place, the older ones are not yet removed."""

    def save_and_die(*arguments: Any) -> None:
        save(*arguments)

    save = directory.RunDirectory.save_checkpoint
    directory.RunDirectory.save_checkpoint = die_at_call(2, save, save_and_die)


def within_a_line_of_the_log() -> None:
    """Half a line of the log is on the disk."""

    def append_half(self: log.EventLog, kind: str, **facts: Any) -> None:
        with self.path.open("ab") as file:
            file.write(b'{"seq": 15, "type": "evaluat')

    log.EventLog.append = die_at_call(15, log.EventLog.append, append_half)


def while_the_best_is_written() -> None:
    """A check has found a better LoRA, which is not there yet."""
    _while_exporting("-best")


def at_the_alarm() -> None:
    """The alarm is in the log; nothing has come of it yet. Only of runs that raise it."""

    def record(self: Any, event: Any) -> None:
        original(self, event)
        if isinstance(event, AlarmRaised):
            die()

    original = runner._Recorder._record
    runner._Recorder._record = record


def while_the_lora_is_written() -> None:
    """Training is over; the LoRA is not there yet."""
    _while_exporting("rlr-lora")


def _while_exporting(ending: str) -> None:
    def write_some(file: Path, *arguments: Any) -> None:
        if not file.stem.endswith(ending):
            return export(file, *arguments)
        file.with_name(f".{file.name}.{os.getpid()}.tmp").write_bytes(b"half")
        die()

    export = runner.export
    runner.export = write_some


def while_the_report_is_written() -> None:
    """Everything is there but the report."""
    report.reward_curve = die_at_call(1, report.reward_curve)


if __name__ == "__main__":
    point, config_file, folder = sys.argv[1:]
    torch.set_num_threads(1)
    globals()[point]()
    runner.start(config.load(Path(config_file)), Path(folder), lambda event: None)
