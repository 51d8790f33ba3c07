"""Carry a run out: start, resume."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from rlr_core.config import RunConfig
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.recorder import Listener, Loading, Recorder
from rlr_core.runs.resuming import refuse_lent, restore_config, resumption
from rlr_core.runs.self_contained import self_contained
from rlr_core.trainer import Edited, Materials, Replanned, Warned, prepare


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
    recorder = Recorder(directory, _loading(directory, materials, should_stop), listen, materials.by_config)
    with closing(recorder), ExitStack() as stack:
        recorder.load(config)
        stack.enter_context(directory.held())
        directory.remove_leftovers()
        directory.create(recorder.setup.config)
        recorder.open(directory.config)  # which names the copy of `lora.start`
        _carry_out(recorder)
    return directory


def resume(
    folder: Path | str,
    listen: Listener = lambda event: None,
    *,
    materials: Materials | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RunDirectory:
    """Go on from the newest checkpoint that is whole, or from the beginning if there is none yet. For the rest see `start`.

    The config in the folder may have been edited: some settings may change (see `resumption`). The device may be another one
    than before, or have less memory left: see `fitted`.
    """
    directory = RunDirectory.open(Path(folder))
    with directory.held():
        directory.remove_leftovers()
        directory.refuse_if_finished()
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
    restored, taken = restore_config(directory), resumption(directory)
    if materials.by_config:
        refuse_lent(taken.config)
    recorder = Recorder(directory, _loading(directory, materials, should_stop), listen, materials.by_config)
    if restored:
        listen(Warned(restored))
    with closing(recorder):
        recorder.load(taken.config)
        recorder.open(recorder.setup.config, taken.found)
        recorder.go_back(taken.found)
        iteration, plan = recorder.trainer.iteration, recorder.plan
        if taken.edited:
            recorder.tell(Edited(iteration, list(map(str, taken.edited))))
        if plan and plan.changes:
            directory.rewrite(plan.config)
            if taken.found.checkpoint:  # from the beginning on it is the run's own plan
                recorder.tell(Replanned(iteration, plan.settings))
        _carry_out(recorder)


def _loading(directory: RunDirectory, materials: Materials, should_stop: Callable[[], bool]) -> Loading:
    """Makes a config's objects, which are stopped by the folder's stop file and by `should_stop`."""

    def asked() -> bool:
        return directory.stop_file.exists() or should_stop()

    return lambda config: prepare(config, asked, materials=materials)


def _carry_out(recorder: Recorder) -> None:
    """Train to the end; where the memory is not enough, go on from the last checkpoint with the next smaller plan."""
    while not recorder.carry_out():
        settings = recorder.make_smaller()
        recorder.go_back(recorder.directory.checkpoints.newest(recorder.identity))
        recorder.tell(Replanned(recorder.trainer.iteration, settings))
