"""Writes a run: every event of the trainer goes to the log, then to whoever listens; checkpoints, and in the end the LoRA."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from rlr_core.config import RunConfig
from rlr_core.errors import CheckpointError, RLRError, RunError
from rlr_core.lora import LoraWeights
from rlr_core.planner.check import fitted, is_out_of_memory, release, smaller
from rlr_core.planner.ladder import Plan
from rlr_core.planner.machine import learn, peak_bytes, this_machine
from rlr_core.runs import log
from rlr_core.runs.checkpoints import Checkpoint, Found
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.export import Origin, export, numbered, write_card
from rlr_core.runs.gallery import Gallery
from rlr_core.runs.overview import Facts
from rlr_core.runs.requests import taken_up
from rlr_core.runs.trackers import Trackers, refuse_missing_trackers
from rlr_core.runs.unlearned import refuse_unlearned
from rlr_core.trainer import (
    AlarmRaised,
    CheckpointDue,
    Edited,
    Evaluation,
    Event,
    Iteration,
    NewBest,
    Painting,
    Preview,
    Ranked,
    Replanned,
    Setup,
    Skipped,
    StopRequested,
    Trainer,
    Warned,
)

MEASURED = 3
"""The iteration after which a run's memory and time are compared with what was predicted."""

Listener = Callable[[Event], None]
Loading = Callable[[RunConfig], Setup]


class Recorder:
    """Carries a run out and writes what its trainer yields: `load`, then `open`, and `close` at the end.

    Attributes:
        behind: whether the trainer has yielded an event that is not in the log yet.
        identity: of the run.
    """

    setup: Setup
    trainer: Trainer
    log: log.EventLog
    gallery: Gallery
    identity: str

    def __init__(self, directory: RunDirectory, make: Loading, listen: Listener, planned: bool):
        self.directory, self._make, self._listen, self._planned = directory, make, listen, planned
        self.plan: Plan | None = None
        self.behind = False
        self._untold: list[Warned] = []
        self.trackers = Trackers()

    def load(self, config: RunConfig) -> None:
        """Make the run's objects, with settings that fit. Raises `RLRError`; nothing is written."""
        refuse_missing_trackers(config.output.trackers)
        self.plan = fitted(config) if self._planned else None
        self.setup = self._make(self.plan.config if self.plan else config)

    def open(self, config: RunConfig, found: Found | None = None) -> None:
        """Begin to write, with the config as it is in the folder, and what was found there of the run so far."""
        self.setup = dataclasses.replace(self.setup, config=config)
        self.trainer = Trainer(self.setup)
        self.log = log.EventLog(self.directory.events_file)
        self.gallery = Gallery(self.directory, self._lora_file, self.setup, self._softly)
        checkpoint = found.checkpoint if found else None
        self.identity = self.directory.identify(checkpoint.run if checkpoint else "")
        done = checkpoint.iteration if checkpoint else 0
        self._softly("the trackers", lambda: self.trackers.open(self.setup.config, self.directory, done))

    def close(self) -> None:
        """Leave the model, and whatever else was lent to the run, as it was."""
        with suppress(Exception):  # it has been told where they fail
            self.trackers.close()
        if hasattr(self, "setup"):
            self.setup.close()

    def make_smaller(self) -> list[str]:
        """Let go of everything, and load it again with the next smaller plan; returns what changed."""
        config = self.setup.config
        self.setup.close()
        del self.setup, self.trainer
        release()
        try:
            self.plan = smaller(config)
            self.setup = self._make(self.plan.config)
            self.trainer = Trainer(self.setup)
        except RLRError as error:
            self._fail(error)
            raise
        self.directory.rewrite(self.plan.config)
        return self.plan.settings

    def go_back(self, found: Found) -> None:
        """Take up the state of a checkpoint; what was logged after it is void."""
        for path, reason in found.refused.items():
            aside = self.directory.checkpoints.set_aside(path)
            self.tell(Warned(f"checkpoint {path.name} was passed over, and is now {aside.name}: {reason}"))
        after = found.checkpoint.events if found.checkpoint else 0
        if found.checkpoint:
            self._take_up(found.checkpoint)
        self.log.go_back(after)

    def _take_up(self, checkpoint: Checkpoint) -> None:
        try:
            self.trainer.load_state_dict(checkpoint.trainer)
        except RLRError:
            raise
        except (
            Exception
        ) as error:  # of any kind: the checkpoint is whole, so that what was loaded is something else
            raise RunError(
                f"the checkpoint of iteration {checkpoint.iteration} does not fit what was loaded: {error!r}",
                "the model and the rewards that the run was made with",
                "put back the files that config.toml names, or start a new run",
            ) from error

    def tell(self, event: Event) -> None:
        """Log an event, then pass it on, and after it what went wrong meanwhile."""
        self.behind = True
        self._record(event)
        self.behind = False
        self._listen(event)
        self._softly("what the trackers show", lambda: self.trackers.tell(event))
        self._tell_warnings()

    def _tell_warnings(self) -> None:
        while self._untold:
            self._listen(self._untold.pop(0))

    def carry_out(self) -> bool:
        """Train until the end or a request to stop, then export. False where the memory was not enough."""
        try:
            self._tell_all(self.trainer.train())
            self._write_result()
            self._measure_result()
            self.log.append("finished", lora=self._lora_file.name)
        except StopRequested:
            self._stop()
            self._tell_warnings()
        except Exception as error:
            if is_out_of_memory(error) and self._planned:
                return False
            self._fail(error)
            raise
        except BaseException:  # by whatever a host or Ctrl-C interrupts
            # In the middle of a step there is nothing to save: the last checkpoint counts.
            if self.trainer.whole and not self.behind:
                self._stop()
            raise
        return True

    def _tell_all(self, events: Iterator[Event]) -> None:
        with closing(cast(Generator[Event, None, None], events)):
            for event in events:
                self.tell(event)
                if isinstance(event, (Iteration, Skipped)):
                    self._heed()

    def _heed(self) -> None:
        """Do what was asked of the run, between two iterations."""
        if taken_up(self.directory, "save"):
            self._save(self.trainer.iteration)
        if taken_up(self.directory, "preview") and not self.trainer.preview_due:
            self._tell_all(self.trainer.preview())

    def _save(self, iteration: int) -> None:
        """The LoRA as it is now, under its number, and a checkpoint; training goes on even if the disk takes neither."""
        file = numbered(self._lora_file, iteration)

        def export_and_tell() -> None:
            self._export_average(file, iteration)
            self.log.append("saved", iteration=iteration, file=file.name)

        self._softly(file.name, export_and_tell)
        self._softly("a checkpoint", self._checkpoint)
        self._tell_warnings()

    def _write_result(self) -> None:
        """The LoRA comes first. Where it cannot be written, the report shows what came of the training."""
        try:
            self._export_result()
        except CheckpointError:
            self.gallery.finish()
            raise

    def _measure_result(self) -> None:
        """Score the LoRA that is written, and make what is only looked at.

        Where the score raises an alarm that has the best LoRA put in its place, that one is written.
        """
        written = self.trainer.exported_iteration
        try:
            self._tell_all(self.trainer.evaluate())
        except StopRequested:
            raise
        except Exception:
            self._warn(f"{self._lora_file.name} is written, but its score could not be measured")
            self._tell_warnings()
            raise
        if self.trainer.exported_iteration != written:
            self._export_result()
        elif self.setup.config.output.evaluation:
            self._softly(f"the scores in {self._lora_file.name}", self._export_result)
        self.gallery.finish()
        self._tell_warnings()

    def _keep_lora(self, iteration: int) -> None:
        """Write the LoRA as it is now, where `output.keep_loras` asks for it."""
        every, file = self.setup.config.output.keep_loras, numbered(self._lora_file, iteration)
        if every and iteration % every == 0:
            self._softly(file.name, lambda: self._export_average(file, iteration))

    def _export_average(self, file: Path, iteration: int) -> None:
        with self.trainer.averaged():
            self._export(file, self.setup.lora.weights(), iteration)

    def _export_result(self) -> None:
        with self.trainer.exported():
            self._export(self._lora_file, self.setup.lora.weights(), self.trainer.exported_iteration)

    def _softly(self, what: str, make: Callable[[], object]) -> None:
        """Make what is only looked at: where that fails, the result is not lost, and the log says so."""
        try:
            make()
        except Exception as error:
            reason = str(error).splitlines()[0] if isinstance(error, RLRError) else repr(error)
            self._warn(f"{what} could not be made: {reason}")

    def _warn(self, message: str) -> None:
        """Log what went wrong; it is told after the event that is being recorded."""
        self.log.append("warning", message=message)
        self._untold.append(Warned(message))

    def _stop(self) -> None:
        """The checkpoint comes first; then what a finished run has, but for a score: that would take long."""
        self._checkpoint()
        if self.trainer.iteration:
            self._softly(self._lora_file.name, self._export_result)
        self.gallery.finish()
        self.log.append("stopped", iteration=self.trainer.iteration)

    def _fail(self, error: Exception) -> None:
        """Log why; where even that cannot be written, the error itself still reaches the user."""
        with suppress(RLRError):
            self.log.failed(error)

    def _record(self, event: Event) -> None:
        match event:
            case Iteration() | Skipped():
                facts = dataclasses.asdict(event)
                seconds = facts.pop("seconds")
                self._learn(event.iteration, seconds)
                self.log.append(type(event).__name__.lower(), clock={"seconds": seconds}, **facts)
                self._keep_lora(event.iteration)
            case Painting():
                self.log.append("painting", **dataclasses.asdict(event))
            case Preview():
                self.log.append("preview", file=self.gallery.preview(event), **_facts(event))
            case Evaluation():
                self._record_evaluation(event)
            case NewBest(iteration, score, pairs, weights):
                self._export(self._best_file, weights, iteration)
                name = self._best_file.name
                self.log.append("best", file=name, iteration=iteration, score=score, pairs=pairs)
            case AlarmRaised():
                self.log.append("alarm", message=event.message, **dataclasses.asdict(event))
            case Ranked():
                self.log.append("ranked", **dataclasses.asdict(event))
            case Replanned():
                self.log.append("replanned", iteration=event.iteration, settings=event.settings)
            case Edited():
                self.log.append("edited", iteration=event.iteration, settings=event.settings)
            case Warned():
                self.log.append("warning", message=event.message)
            case CheckpointDue():
                self.log.append("checkpoint", iteration=event.iteration)
                self._checkpoint()

    def _learn(self, iteration: int, seconds: float) -> None:
        """Correct later predictions by what the run took; once, when all that it needs has been there."""
        if self.plan and iteration == MEASURED:
            device, precision = self.setup.model.device, self.setup.config.model.precision
            learn(this_machine(device), self.plan.footprint, precision, peak_bytes(device), seconds)

    def _record_evaluation(self, event: Evaluation) -> None:
        self.gallery.evaluation(event)
        self.log.append("evaluation", **_facts(event))
        for what, scores in (("held-out scores", event.scores), ("rewards", event.rewards)):
            unscored = int((~scores.isfinite()).sum())
            if unscored:
                told = f"{unscored} of {len(scores)} {what} {event.when} training are NaN or infinite"
                self._warn(f"{told}; comparisons leave these pictures out")

    def _checkpoint(self) -> None:
        config, state = self.setup.config, self.trainer.state_dict()
        made = Checkpoint(self.identity, config, self.log.sequence, state)
        self.directory.checkpoints.save(made, config.output.keep_checkpoints)
        with suppress(RLRError):  # a log that cannot be read is no reason to train no more
            self.directory.keep_overview()

    @property
    def _lora_file(self) -> Path:
        return self.directory.folder / f"{self.setup.config.output.name}.safetensors"

    @property
    def _best_file(self) -> Path:
        return self._lora_file.with_name(f"{self._lora_file.stem}-best.safetensors")

    def _export(self, file: Path, weights: LoraWeights, iteration: int) -> None:
        refuse_unlearned(weights, self.setup.config, self.directory.events_file)
        achieved, origin = self._achieved(), Origin.of(self.setup)
        export(file, origin, weights, iteration, achieved)
        self._softly(f"{file.stem}.json", lambda: write_card(file, origin, achieved))

    def _achieved(self) -> Facts:
        """What the log tells; nothing where it cannot be read, so that the LoRA is written all the same."""
        try:
            return self.directory.keep_overview().facts
        except RLRError as error:
            self._warn(f"the LoRA says nothing of its scores: {str(error).splitlines()[0]}")
            return Facts()


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
