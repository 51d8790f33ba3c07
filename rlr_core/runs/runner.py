"""Carry a run out: start, resume, stop. Every event of the trainer goes to the log, then to whoever listens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, cast

from PIL import Image
from torch import Tensor

from rlr_core.config import RunConfig
from rlr_core.errors import RLRError
from rlr_core.lora import LoraWeights
from rlr_core.planner.check import fitted, is_out_of_memory, release, smaller
from rlr_core.planner.ladder import Plan
from rlr_core.planner.machine import learn, peak_bytes, this_machine
from rlr_core.runs import log
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.export import export
from rlr_core.runs.pictures import before_after, save_png, strip, to_picture
from rlr_core.runs.report import write_report
from rlr_core.runs.self_contained import self_contained
from rlr_core.storage import write_text
from rlr_core.trainer import (
    AlarmRaised,
    CheckpointDue,
    Evaluation,
    Event,
    Iteration,
    Materials,
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

SHOWN = 8
"""Pictures of the evaluation that the before/after grid shows."""

MEASURED = 3
"""The iteration after which a run's memory and time are compared with what was predicted."""

Listener = Callable[[Event], None]
Loading = Callable[[RunConfig], Setup]


def start(
    config: RunConfig,
    folder: Path | str,
    listen: Listener = lambda event: None,
    *,
    materials: Materials | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RunDirectory:
    """Train from the beginning in a new folder.

    Everything is loaded and checked first: a bad setting leaves no folder behind. Returns the folder of a run that is finished
    or was stopped (`state()` tells). Raises `RLRError`, and writes why to the log.

    Args:
        config: of the run.
        folder: a new or empty one.
        listen: called with every event, when it is in the log.
        materials: model, LoRA or rewards as objects, instead of those that the config names. It is as before when the run ends.
        should_stop: asked between two denoising steps, as the folder's stop file is; a host's button for Cancel.

    An exception of the host's own kind (a `KeyboardInterrupt`, or whatever is no `Exception`), raised by `listen`, by
    `should_stop` or in between, stops the run like a request, where its state is whole; then it goes its way.
    """
    directory, materials = RunDirectory(Path(folder)), materials or Materials()
    directory.refuse_if_taken()
    config = self_contained(materials.named(config), keep_model=not materials.by_config)
    recorder = _Recorder(directory, _loading(directory, materials, should_stop), materials.by_config)
    with closing(recorder), ExitStack() as stack:
        recorder.load(config)
        stack.enter_context(directory.held())
        directory.remove_leftovers()
        directory.create(recorder.setup.config)
        recorder.open(directory.config)  # which names the copy of `lora.start`
        _carry_out(recorder, listen)
    return directory


def resume(
    folder: Path | str,
    listen: Listener = lambda event: None,
    *,
    materials: Materials | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RunDirectory:
    """Go on from the newest checkpoint, or from the beginning if there is none yet. For the rest see `start`.

    The device may be another one than before, or have less memory left: see `fitted`.
    """
    directory = RunDirectory.open(Path(folder))
    with directory.held():
        directory.refuse_if_finished()
        directory.remove_leftovers()
        go_on(directory, listen, materials, should_stop)
    return directory


def go_on(
    directory: RunDirectory,
    listen: Listener,
    materials: Materials | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """`resume` in a folder that the caller holds, where nothing is left over."""
    materials = materials or Materials()
    recorder = _Recorder(directory, _loading(directory, materials, should_stop), materials.by_config)
    with closing(recorder):
        recorder.load(directory.config)
        recorder.open(recorder.setup.config)
        checkpoint, plan = directory.load_checkpoint(), recorder.plan
        recorder.go_back(checkpoint)
        if plan and plan.changes:
            directory.rewrite(plan.config)
            if checkpoint:  # from the beginning on it is the run's own plan
                recorder.tell(Replanned(recorder.trainer.iteration, plan.settings), listen)
        _carry_out(recorder, listen)


def _loading(directory: RunDirectory, materials: Materials, should_stop: Callable[[], bool]) -> Loading:
    """Makes a config's objects, which are stopped by the folder's stop file and by `should_stop`."""

    def asked() -> bool:
        return directory.stop_file.exists() or should_stop()

    return lambda config: prepare(config, asked, materials=materials)


def _carry_out(recorder: _Recorder, listen: Listener) -> None:
    """Train to the end; where the memory is not enough, go on from the last checkpoint with the next smaller plan."""
    while not recorder.carry_out(listen):
        settings = recorder.make_smaller()
        recorder.go_back(recorder.directory.load_checkpoint())
        recorder.tell(Replanned(recorder.trainer.iteration, settings), listen)


def request_stop(folder: Path) -> bool:
    """Ask a run to stop between two denoising steps; it saves a checkpoint first. False if it neither runs nor starts."""
    directory = RunDirectory.open(folder)
    if not directory.is_active:
        return False
    write_text(directory.stop_file, "")
    return True


class _Recorder:
    """Carries a run out and writes what its trainer yields: `load`, then `open`, and `close` at the end.

    Attributes:
        behind: whether the trainer has yielded an event that is not in the log yet.
    """

    setup: Setup
    trainer: Trainer
    log: log.EventLog

    def __init__(self, directory: RunDirectory, make: Loading, planned: bool):
        self.directory, self._make, self._planned = directory, make, planned
        self.plan: Plan | None = None
        self.behind = False

    def load(self, config: RunConfig) -> None:
        """Make the run's objects, with settings that fit. Raises `RLRError`; nothing is written."""
        self.plan = fitted(config) if self._planned else None
        self.setup = self._make(self.plan.config if self.plan else config)

    def open(self, config: RunConfig) -> None:
        """Begin to write, with the config as it is in the folder."""
        self.setup = dataclasses.replace(self.setup, config=config)
        self.trainer = Trainer(self.setup)
        self.log = log.EventLog(self.directory.events_file)

    def close(self) -> None:
        """Leave the model, and whatever else was lent to the run, as it was."""
        if hasattr(self, "setup"):
            self.setup.close()

    def make_smaller(self) -> list[str]:
        """Let go of everything, and load it again with the next smaller plan; returns what changed."""
        config = self.setup.config
        self.close()
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

    def go_back(self, checkpoint: dict[str, Any] | None) -> None:
        """Take up the state of a checkpoint; what was logged after it is void."""
        after = checkpoint["events"] if checkpoint else 0
        self.log.go_back(after)
        if checkpoint:
            self.trainer.load_state_dict(checkpoint["trainer"])

    def tell(self, event: Event, listen: Listener) -> None:
        """Log an event, then pass it on."""
        self.behind = True
        self._record(event)
        self.behind = False
        listen(event)

    def carry_out(self, listen: Listener) -> bool:
        """Train until the end or a request to stop, then export. False where the memory was not enough."""
        try:
            with closing(cast(Generator[Event, None, None], self.trainer.run())) as events:
                for event in events:
                    self.tell(event, listen)
            with self.trainer.exported():
                self._export(self._lora_file, self.setup.lora.weights(), self.trainer.exported_iteration)
            self._softly("the report", lambda: write_report(self.directory))
            self.log.append("finished", lora=self._lora_file.name)
        except StopRequested:
            self._stop()
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

    def _softly(self, what: str, make: Callable[[], object]) -> None:
        """Make what is only looked at: where that fails, the result is not lost, and the log says so."""
        try:
            make()
        except Exception as error:
            self.log.append("warning", message=f"{what} could not be made: {error!r}")

    def _stop(self) -> None:
        self._checkpoint()
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
        self.directory.keep_overview()

    @property
    def _lora_file(self) -> Path:
        return self.directory.folder / f"{self.setup.config.output.name}.safetensors"

    @property
    def _best_file(self) -> Path:
        return self._lora_file.with_name(f"{self._lora_file.stem}-best.safetensors")

    def _export(self, file: Path, weights: LoraWeights, iteration: int) -> None:
        export(file, self.setup, weights, iteration, self.directory.keep_overview().facts)


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
