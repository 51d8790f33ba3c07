"""Train in a process of its own that kills itself (SIGKILL) at a chosen point."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlr_core import config
from rlr_core.runs import checkpoints, gallery, log, recorder, runner
from rlr_core.trainer import AlarmRaised, Evaluation


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

    def record(self: Any, event: Any) -> None:
        if isinstance(event, Evaluation):
            die()
        original(self, event)

    original = recorder.Recorder._record
    recorder.Recorder._record = record


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

    original = checkpoints.write_atomically
    fatal = die_at_call(3, original, write_half)
    checkpoints.write_atomically = only_checkpoints


def after_a_checkpoint() -> None:
    """The second checkpoint is in place, the older ones are not yet removed."""

    def save_and_die(*arguments: Any) -> None:
        save(*arguments)

    save = checkpoints.Checkpoints.save
    checkpoints.Checkpoints.save = die_at_call(2, save, save_and_die)


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

    original = recorder.Recorder._record
    recorder.Recorder._record = record


def while_the_lora_is_written() -> None:
    """Training is over; the LoRA is not there yet."""
    _while_exporting("rlr-lora")


def while_the_lora_is_scored() -> None:
    """It is there, and its score in the making."""
    from rlr_core.trainer import training

    training.evaluation = die_at_call(5, training.evaluation)


def while_the_lora_gets_its_scores() -> None:
    """It is there without its scores, and about to be written with them."""
    _while_exporting("rlr-lora", 2)


def _while_exporting(ending: str, number: int = 1) -> None:
    def write_half(file: Path, *arguments: Any) -> None:
        file.with_name(f".{file.name}.{os.getpid()}.tmp").write_bytes(b"half")

    def only_that_lora(file: Path, *arguments: Any) -> None:
        (fatal if file.stem.endswith(ending) else export)(file, *arguments)

    export = recorder.export
    fatal = die_at_call(number, export, write_half)
    recorder.export = only_that_lora


def while_the_report_is_written() -> None:
    """Everything is there but the curve and the report."""
    gallery.write_curve = die_at_call(1, gallery.write_curve)


LIBRARIES = [
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "matplotlib.figure",
    "peft",
    "rlr_core.runs.runner",
    "torch",
    "transformers.models.clip.modeling_clip",
]
"""What is imported once, in a process that every other one is forked from, where the system has that."""


def exit_code(train: Callable[[Path], object], point: str, folder: Path) -> int | None:
    """Of a process that begins a run in `folder` by `train`, a function of a module, and kills itself at `point`."""
    context = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    if hasattr(os, "fork"):
        context.set_forkserver_preload(LIBRARIES)
    process = context.Process(target=_train, args=(train, point, folder))
    process.start()
    process.join(200)
    return process.exitcode


def by_config(folder: Path) -> None:
    """Begin the run of the config beside its folder."""
    runner.start(config.load(folder.with_suffix(".toml")), folder, lambda event: None)


def _train(train: Callable[[Path], object], point: str, folder: Path) -> None:
    torch.set_num_threads(1)
    globals()[point]()
    train(folder)
