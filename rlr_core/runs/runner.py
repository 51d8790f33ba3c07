"""Carry a run out: start, resume, stop. Every event of the trainer goes to the log, then to whoever listens."""

from __future__ import annotations

import dataclasses
import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from rlr_core.config import RewardConfig, RunConfig
from rlr_core.errors import RLRError, RunError
from rlr_core.lora import LoraWeights
from rlr_core.planner.check import fitted, is_out_of_memory, release, smaller
from rlr_core.planner.ladder import Plan
from rlr_core.planner.machine import learn, peak_bytes, this_machine
from rlr_core.runs import log
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.export import export
from rlr_core.runs.pictures import before_after, save_png, strip, to_picture
from rlr_core.runs.report import write_report
from rlr_core.runs.summary import Summary
from rlr_core.storage import write_text
from rlr_core.trainer import (
    AlarmRaised,
    CheckpointDue,
    Evaluation,
    Event,
    Iteration,
    NewBest,
    Painting,
    Preview,
    Replanned,
    Setup,
    Skipped,
    StopRequested,
    Trainer,
    prepare,
)
from rlr_core.trainer.prompts import read_prompts

SHOWN = 8
"""Pictures of the evaluation that the before/after grid shows."""

MEASURED = 3
"""The iteration after which a run's memory and time are compared with what was predicted."""

Listener = Callable[[Event], None]


def start(config: RunConfig, folder: Path, listen: Listener) -> RunDirectory:
    """Train from the beginning in a new folder.

    Everything is loaded and checked first: a bad setting leaves no folder behind. Returns the folder of a run that is finished
    or was stopped (`state()` tells). Raises `RLRError`, and writes why to the log.
    """
    directory = RunDirectory(folder)
    directory.refuse_if_taken()
    plan = fitted(self_contained(config))
    config = plan.config if plan else self_contained(config)
    setup = prepare(config, directory.stop_file.exists)
    with directory.held():
        directory.create(config)
        directory.remove_leftovers()
        recorder = _Recorder(directory, setup, plan)
        del setup  # else it would stay where the recorder gives way to a smaller plan
        _carry_out(recorder, listen)
    return directory


def resume(folder: Path, listen: Listener) -> RunDirectory:
    """Go on from the newest checkpoint, or from the beginning if there is none yet.

    The device may be another one than before, or have less memory left: see `fitted`.
    """
    directory = RunDirectory.open(folder)
    with directory.held():
        if directory.finished:
            raise RunError(
                f"the run {folder} is finished", "a run that has something left to do", "start a new one"
            )
        plan = fitted(directory.config)
        config = plan.config if plan else directory.config
        directory.remove_leftovers()
        recorder = _Recorder(directory, prepare(config, directory.stop_file.exists), plan)
        recorder.go_back(directory.load_checkpoint())
        if plan and plan.changes:
            directory.rewrite(plan.config)
            recorder.tell(Replanned(recorder.trainer.iteration, plan.settings), listen)
        _carry_out(recorder, listen)
    return directory


def _carry_out(recorder: _Recorder, listen: Listener) -> None:
    """Train to the end; where the memory is not enough, go on from the last checkpoint with the next smaller plan."""
    while not recorder.carry_out(listen):
        settings = recorder.make_smaller()
        recorder.go_back(recorder.directory.load_checkpoint())
        recorder.tell(Replanned(recorder.trainer.iteration, settings), listen)


def request_stop(folder: Path) -> bool:
    """Ask a run to stop between two denoising steps; it saves a checkpoint first. False if it is not running."""
    directory = RunDirectory.open(folder)
    if not directory.is_held:
        return False
    write_text(directory.stop_file, "")
    return True


def self_contained(config: RunConfig) -> RunConfig:
    """The config with prompts files read and paths made absolute, so that the run folder needs nothing else."""
    prompts = config.prompts
    train = [*prompts.train, *(read_prompts(prompts.file) if prompts.file else [])]
    held_out = [*prompts.held_out, *(read_prompts(prompts.held_out_file) if prompts.held_out_file else [])]
    prompts = dataclasses.replace(prompts, train=train, held_out=held_out, file="", held_out_file="")
    checkpoint, vae = config.model.checkpoint, config.model.vae
    model = dataclasses.replace(
        config.model,
        checkpoint=checkpoint if checkpoint == "embedded" else _absolute(checkpoint),
        vae=_absolute(vae) if vae else "",
    )
    reward = _absolute_rewards(config.reward)
    start = _absolute(config.lora.start) if config.lora.start else ""
    lora = dataclasses.replace(config.lora, start=start)
    return dataclasses.replace(config, prompts=prompts, model=model, lora=lora, reward=reward)


def _absolute_rewards(config: RewardConfig) -> RewardConfig:
    tables = {
        key: {_absolute_reward(name): number for name, number in getattr(config, key).items()}
        for key in ("mix", "mix_mean", "mix_spread")
    }
    return dataclasses.replace(
        config,
        name=_absolute_reward(config.name),
        held_out=_absolute_reward(config.held_out),
        watch=[_absolute_reward(name) for name in config.watch],
        **tables,
    )


def _absolute_reward(name: str) -> str:
    """The path in "file.py:function" becomes absolute; a name stays."""
    path, colon, function = name.rpartition(":")
    return f"{_absolute(path)}:{function}" if colon and path.endswith(".py") else name


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


class _Recorder:
    """Writes what a trainer yields."""

    def __init__(self, directory: RunDirectory, setup: Setup, plan: Plan | None = None):
        self.directory = directory
        self._begin(setup, plan)
        self.log = log.EventLog(directory.events_file)

    def _begin(self, setup: Setup, plan: Plan | None) -> None:
        self.setup, self.plan = setup, plan
        self.trainer = Trainer(setup)

    def make_smaller(self) -> list[str]:
        """Let go of everything, and load it again with the next smaller plan; returns what changed."""
        config = self.setup.config
        del self.setup, self.trainer
        release()
        try:
            plan = smaller(config)
            self._begin(prepare(plan.config, self.directory.stop_file.exists), plan)
        except RLRError as error:
            self._fail(str(error))
            raise
        self.directory.rewrite(plan.config)
        return plan.settings

    def go_back(self, checkpoint: dict[str, Any] | None) -> None:
        """Take up the state of a checkpoint; what was logged after it is void."""
        after = checkpoint["events"] if checkpoint else 0
        self.log.append("resumed", after=after)
        if checkpoint:
            self.trainer.load_state_dict(checkpoint["trainer"])

    def tell(self, event: Event, listen: Listener) -> None:
        """Log an event, then pass it on."""
        self._record(event)
        listen(event)

    def carry_out(self, listen: Listener) -> bool:
        """Train until the end or a request to stop, then export. False where the memory was not enough."""
        try:
            for event in self.trainer.run():
                self.tell(event, listen)
            write_report(self.directory)
            with self.trainer.exported():
                self._export(self._lora_file, self.setup.lora.weights(), self.trainer.exported_iteration)
            self.log.append("finished", lora=self._lora_file.name)
        except StopRequested:
            self._checkpoint()
            self.log.append("stopped", iteration=self.trainer.iteration)
        except Exception as error:
            if is_out_of_memory(error):
                return False
            self._fail(str(error) if isinstance(error, RLRError) else traceback.format_exc())
            raise
        return True

    def _fail(self, message: str) -> None:
        """Log why; where even that cannot be written, the error itself still reaches the user."""
        with suppress(RLRError):
            self.log.append("failed", message=message)

    def _record(self, event: Event) -> None:
        match event:
            case Iteration() | Skipped():
                facts = dataclasses.asdict(event)
                seconds = facts.pop("seconds")
                self._learn(event.iteration, seconds)
                self.log.append(type(event).__name__.lower(), clock={"seconds": seconds}, **facts)
            case Painting():
                self.log.append("painting", **dataclasses.asdict(event))
            case Preview():
                file = self.directory.previews / f"{event.iteration:06d}.png"
                save_png(strip(event.images), file)
                self._show_beside_the_lora(event.images[0])
                self.log.append("preview", file=f"previews/{file.name}", **_facts(event))
            case Evaluation():
                self._record_evaluation(event)
            case NewBest(iteration, score, weights):
                self._export(self._best_file, weights, iteration)
                self.log.append("best", file=self._best_file.name, iteration=iteration, score=score)
            case AlarmRaised():
                self.log.append("alarm", message=event.message, **dataclasses.asdict(event))
            case Replanned():
                self.log.append("replanned", iteration=event.iteration, settings=event.settings)
            case CheckpointDue():
                self.log.append("checkpoint", iteration=event.iteration)
                self._checkpoint()

    def _learn(self, iteration: int, seconds: float) -> None:
        """Correct later predictions by what the run took; once, when all that it needs has been there."""
        if self.plan and iteration == MEASURED:
            device, precision = self.setup.model.device, self.setup.config.model.precision
            learn(this_machine(device), self.plan.footprint, precision, peak_bytes(device), seconds)

    def _record_evaluation(self, event: Evaluation) -> None:
        if event.when != "during":
            save_png(strip(event.images[:SHOWN]), self.directory.folder / f"{event.when}.png")
        self.log.append("evaluation", **_facts(event))
        if event.when == "after":
            self._show_beside_the_lora(
                event.images[0]
            )  # of the LoRA that is exported, which may be an earlier one
            before, after = (self._strip(name) for name in ("before", "after"))
            save_png(
                before_after(before, after, event.prompts[:SHOWN]), self.directory.folder / "before_after.png"
            )

    def _show_beside_the_lora(self, image: Tensor) -> None:
        """Write the picture (3, H, W) that hosts show for the LoRA."""
        save_png(to_picture(image, 512), self._lora_file.with_suffix(".preview.png"))

    def _strip(self, name: str) -> Image.Image:
        with Image.open(self.directory.folder / f"{name}.png") as picture:
            return picture.convert("RGB")

    def _checkpoint(self) -> None:
        state = {"events": self.log.sequence, "trainer": self.trainer.state_dict()}
        self.directory.save_checkpoint(
            self.trainer.iteration, state, self.setup.config.output.keep_checkpoints
        )

    @property
    def _lora_file(self) -> Path:
        return self.directory.folder / f"{self.setup.config.output.name}.safetensors"

    @property
    def _best_file(self) -> Path:
        return self._lora_file.with_name(f"{self._lora_file.stem}-best.safetensors")

    def _export(self, file: Path, weights: LoraWeights, iteration: int) -> None:
        export(file, self.setup, weights, iteration, Summary.read(self.directory.events_file))


def _facts(event: Preview | Evaluation) -> dict[str, Any]:
    """What is logged of pictures: everything but themselves."""
    facts = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    del facts["images"]
    return {name: _as_lists(value) for name, value in facts.items()}


def _as_lists(value: Any) -> Any:
    """Tensors as lists, in tables too."""
    if isinstance(value, Tensor):
        return value.tolist()
    return {name: _as_lists(item) for name, item in value.items()} if isinstance(value, dict) else value
