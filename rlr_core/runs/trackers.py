"""A run's scores and previews for TensorBoard, Weights & Biases and Trackio, through accelerate's trackers.

They are for looking: the log is the run. Nothing leaves the machine unless the tracker is told so by its own variables.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from rlr_core.config import RunConfig, to_dict
from rlr_core.errors import ConfigError
from rlr_core.runs.directory import RunDirectory
from rlr_core.trainer import AlarmRaised, Evaluation, Event, Iteration, Preview

PROJECT = "rlr"
"""Under which Weights & Biases and Trackio file all runs."""


def refuse_missing_trackers(names: Sequence[str]) -> None:
    """Raises `ConfigError` for a tracker whose package is not installed; nothing is loaded."""
    for name in names:
        if not find_spec(name):
            raise ConfigError(
                f"output.trackers names {name}, which is not installed",
                f"the package {name} in RLR's environment",
                f"uv pip install {name}, or leave it out of output.trackers",
            )


class Trackers:
    """What a config's `output.trackers` names. One that fails is let go of."""

    def __init__(self) -> None:
        self._open: list[Any] = []

    def open(self, config: RunConfig, directory: RunDirectory, iteration: int) -> None:
        """Show a run that has done `iteration` iterations, under the identity that it had before."""
        if config.output.trackers:
            from accelerate import PartialState

            PartialState()  # which its trackers ask whether this is the only process
        for name in config.output.trackers:
            tracker = MAKERS[name](config, directory, iteration)
            tracker.start()
            self._open.append(tracker)

    def tell(self, event: Event) -> None:
        """Pass an event on, as numbers and pictures with names. Raises whatever a tracker does."""
        numbers, iteration = scalars(event), getattr(event, "iteration", 0)
        for tracker in list(self._open):
            self._open.remove(tracker)
            if numbers:
                tracker.log(numbers, step=iteration)
            if isinstance(event, Preview):
                _show(tracker, event)
            self._open.append(tracker)

    def close(self) -> None:
        """Write out what is held back."""
        while self._open:
            self._open.pop().finish()


def scalars(event: Event) -> dict[str, float]:
    """An event's numbers under the names that trackers show: like with like, so that a curve joins nothing else."""
    match event:
        case Iteration():
            parts = {
                f"gradient/{name} {what}": value
                for name, part in event.parts.items()
                for what, value in (("norm", part.norm), ("standard error", part.standard_error))
            }
            of = {f"reward/{name} of the mix": value for name, value in event.reward_parts.items()}
            reward = {
                f"reward/trained on, {event.measured_on}": event.reward,
                "gradient/norm": event.gradient_norm,
            }
            return {**reward, **of, **parts, "seconds per iteration": event.seconds}
        case Evaluation():
            pairs = f"{len(event.scores)} pairs"
            held = {"held out": event.scores, "reward trained on": event.rewards, **event.watched}
            return {f"evaluation of {pairs}/{name}": float(scores.mean()) for name, scores in held.items()}
        case AlarmRaised():
            return {"alarm": 1.0}
        case _:
            return {}


def _show(tracker: Any, event: Preview) -> None:
    """The pictures of a preview, where the tracker takes pictures."""
    pictures = [image.detach().float().cpu().numpy() for image in event.images]
    if tracker.name == "tensorboard":
        shown = {f"preview/{number:03}": picture[None] for number, picture in enumerate(pictures)}
        tracker.log_images(shown, step=event.iteration)
    elif tracker.name == "wandb":
        tracker.log_images(
            {"preview": [picture.transpose(1, 2, 0) for picture in pictures]}, step=event.iteration
        )


def _tensorboard(config: RunConfig, directory: RunDirectory, iteration: int) -> Any:
    from accelerate.tracking import TensorBoardTracker

    purge = {"purge_step": iteration + 1} if iteration else {}
    return TensorBoardTracker("tensorboard", str(directory.folder), **purge)


def _wandb(config: RunConfig, directory: RunDirectory, iteration: int) -> Any:
    from accelerate.tracking import WandBTracker

    return WandBTracker(
        PROJECT,
        name=directory.folder.name,
        id=directory.identify(),
        dir=str(directory.folder),
        config=to_dict(config),
        mode=os.environ.get("WANDB_MODE", "offline"),
        resume="allow",
        settings={"silent": True},
    )


def _trackio(config: RunConfig, directory: RunDirectory, iteration: int) -> Any:
    from accelerate.tracking import TrackioTracker

    return TrackioTracker(
        PROJECT, name=directory.folder.name, config=to_dict(config), resume="allow", embed=False
    )


MAKERS = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
