"""What the node shows while it trains: ComfyUI's progress bar with the newest preview, and messages to its web extension."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlr_core.errors import RLRError
from rlr_core.runs.pictures import strip
from rlr_core.trainer import AlarmRaised, Evaluation, Event, Iteration, Painting, Preview, Skipped, Warned

from .host import Interrupted, processing_interrupted, progress_bar, send
from .wording import in_nodes_words

EVENT = "rlr.run"
CURVE = "reward.png"
"""What cannot be drawn without matplotlib, which ComfyUI has not. The node draws it itself; the log says so."""
WIDEST = 1024
"""Pixels of a preview on the node."""
LATEST: dict[str, tuple[str, str]] = {}
"""Node → the run that it trains now and the workflow that it is in, for pages that are loaded meanwhile."""


class Telling:
    """Listens to a run. ComfyUI's Cancel is noticed and asked for; it never ends the run by an exception.

    Args:
        node: its number in the graph.
        run: the run's folder.
        iterations: of the whole run.
        workflow: that the node is in, since nodes of others have the same numbers; "" where a program queued it.

    Attributes:
        cancelled: whether Cancel was pressed.
    """

    def __init__(self, node: str, run: Path, iterations: int, workflow: str = ""):
        self.node, self.run, self.workflow = node, run, workflow
        self.bar, self.cancelled, self._done = progress_bar(iterations, node), False, 0
        LATEST[node] = run.name, workflow

    def should_stop(self) -> bool:
        """Asked between two denoising steps."""
        self.cancelled = self.cancelled or processing_interrupted()
        return self.cancelled

    def __call__(self, event: Event) -> None:
        """Show it."""
        match event:
            case Iteration(iteration) | Skipped(iteration):
                self._done = iteration
                self._move(None)
                self.tell("")
            case Preview(images=images):
                picture = strip(images[:8])
                picture.thumbnail((WIDEST, WIDEST))
                self._move(picture)
                self.tell("")
            case Painting(_, purpose, done, total):
                self.tell(f"painting: {purpose}, {done} of {total} pictures")
            case Warned(message) if not message.startswith(CURVE):
                self.tell("", note=message)
            case AlarmRaised():
                self.tell("", note=event.message)
            case Evaluation():
                self.tell("")
            case _:
                pass

    def tell(self, doing: str, *, note: str = "", state: str = "running") -> None:
        """To the browser."""
        place = {"node": self.node, "workflow": self.workflow, "run": self.run.name}
        send(
            EVENT,
            {**place, "iteration": self._done, "state": state, "doing": doing, "note": in_nodes_words(note)},
        )

    def over(self, error: BaseException | None = None) -> None:
        """No more comes of this run. ComfyUI's layers, too, raise where Cancel was pressed: that is no failure."""
        LATEST.pop(self.node, None)
        if isinstance(error, Interrupted):
            self.cancelled, error = True, None
        told = error.parts[0] if isinstance(error, RLRError) else repr(error) if error else ""
        self.tell("", note=told, state="failed" if error else "stopped" if self.cancelled else "finished")

    def _move(self, picture: Any) -> None:
        """The bar raises where Cancel was pressed: in here, that would cost what was learned last."""
        try:
            self.bar.update_absolute(self._done, None, picture and ("JPEG", picture, WIDEST))
        except Interrupted:
            self.cancelled = True
