"""A run's events as a progress bar with the time left, the reward now and the reward at the start."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean
from types import TracebackType
from typing import Any

from tqdm import tqdm

from rlr_core.config import Judged, RunConfig
from rlr_core.errors import visible
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.state import RunState
from rlr_core.runs.summary import Comparison
from rlr_core.trainer.events import (
    AlarmRaised,
    CheckpointDue,
    Edited,
    Evaluation,
    Event,
    Iteration,
    Painting,
    Ranked,
    Replanned,
    Skipped,
    Warned,
)

RECENT = 5
"""Iterations whose mean is "the reward now", and that at the start."""
LONG = {
    "calibration": "the scale of the reward",
    "starts": "where predictions rank as pictures do",
    "before": "the score at the start",
    "after": "the score at the end",
}
"""Purposes of painting that training waits for, and what they are called."""


class Narrator:
    """Listens to a run.

    Args:
        config: of the run.
        state: where a resumed run was left.
    """

    def __init__(self, config: RunConfig, state: RunState | None = None):
        self._config = config
        self._judged = Judged.of(config)
        self._start: list[float | None] = []
        self._first: list[float] = []
        self._knows_the_first = state is None or state.first is None
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._bar: Any = None
        self._painting: Any = None

    def __enter__(self) -> Narrator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(self._painting)
        self._close(self._bar)

    def __call__(self, event: Event) -> None:
        match event:
            case Painting():
                self._paint(event)
            case Evaluation(when="before" | "during"):
                self._tell_score(event)
            case Iteration():
                self._count(event)
            case Skipped():
                self._say(f"Iteration {event.iteration} was skipped: {event.reason}.")
                self._advance(event.iteration)
            case Ranked(starts=[first, after]):
                self._say(
                    f"Sub-chains start at steps {first + 1} to {after}: there predicted pictures rank as finished ones."
                )
            case Ranked(finished=True):
                self._say(
                    "Predicted pictures do not rank as finished ones do early on: training looks at finished ones."
                )
            case Replanned():
                self._say(
                    f"The memory is not enough. Going on after iteration {event.iteration} with {', '.join(event.settings)}."
                )
            case Edited():
                self._say(f"Going on after iteration {event.iteration} with {'; '.join(event.settings)}.")
            case Warned():
                self._say(f"WARNING: {event.message}.")
            case CheckpointDue(iteration=0):
                self._advance(0)
            case AlarmRaised():
                self._say(f"ALARM: {event.message}.")
            case _:
                pass

    def _tell_score(self, event: Evaluation) -> None:
        """Of the start, and on the way of the same pairs then and now; a resumed run has the start in its report alone."""
        scores = [score if math.isfinite(score) else None for score in event.scores.tolist()]
        known = [score for score in scores if score is not None]
        mean = f"{fmean(known):.3f}  ({len(known)} pairs)" if known else "unknown: none is finite"
        if event.when == "before":
            self._start = scores
            self._say(f"{self._judged.title} at the start: {mean}")
        elif compared := Comparison.of(self._start[: len(scores)], scores) if self._start else None:
            self._say(f"Check after iteration {event.iteration}: {self._judged.score} {compared}")
        else:
            self._say(f"Check after iteration {event.iteration}: {self._judged.score} {mean}")

    def _count(self, event: Iteration) -> None:
        """The mean of the latest batches, beside that of as many first ones, where this process has seen them."""
        self._recent.append(event.reward)
        if self._knows_the_first and len(self._first) < RECENT:
            self._first.append(event.reward)
        self._advance(event.iteration)
        what = " of predicted pictures" if event.measured_on == "predicted pictures" else ""
        first = f", at the start {fmean(self._first):.3f}" if self._first else ""
        self._bar.set_postfix_str(f"reward{what} {fmean(self._recent):.3f}{first}")

    def _advance(self, iteration: int) -> None:
        if self._bar is None:
            total, done = self._config.training.iterations, max(iteration - 1, 0)
            self._bar = tqdm(
                total=total, initial=done, unit="it", desc="training", dynamic_ncols=True, file=sys.stderr
            )
        self._bar.update(iteration - self._bar.n)

    def _paint(self, event: Painting) -> None:
        """Say what training waits for, and on a terminal show how far it is."""
        if event.done == 0:
            if event.purpose == "after":
                self._close(self._bar)
            if event.purpose in LONG:
                self._say(f"Painting {event.total} pictures for {LONG[event.purpose]} …")
            self._close(self._painting)  # of a painting that the memory was not enough for
            self._painting = tqdm(
                total=event.total, unit="picture", desc="painting", leave=False, disable=None, file=sys.stderr
            )
        self._painting.update(event.done - self._painting.n)
        if event.done == event.total:
            self._close(self._painting)

    def _close(self, bar: Any) -> None:
        if bar is not None:
            bar.close()

    def _say(self, text: str) -> None:
        tqdm.write(visible(text), file=sys.stdout)
        sys.stdout.flush()


@contextmanager
def stopping_on_interrupt(directory: RunDirectory) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) asks the run to save and stop; the second one interrupts it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        signal.signal(number, previous[signal.Signals(number)])
        if not directory.events_file.exists():
            raise KeyboardInterrupt
        directory.stop_file.touch()
        tqdm.write(
            "\nStopping; a checkpoint is being saved. Press Ctrl-C again to quit at once.", file=sys.stderr
        )

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
