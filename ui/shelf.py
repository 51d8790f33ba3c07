"""All runs for the list, read once for all browsers that ask within a moment."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from rlr_core.runs.listing import list_runs
from rlr_core.runs.state import RunState
from ui.words import LIVE, ago, badge, signed

MOMENT = 1.0
"""Seconds for which a list is taken for new."""
COSTS = 20
"""A list is as many times older than it took to read: reading takes at most a twentieth of the time."""
SHOWN = 100


@dataclass(frozen=True)
class Line:
    """A run in the list, as JSON for the page."""

    name: str
    state: str
    badge: str
    gain: str
    when: str
    share: float


class Shelf:
    """The list of all runs, newest first."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._states: list[RunState] = []
        self._read, self._took, self._root = 0.0, 0.0, Path()

    def states(self, root: Path) -> list[RunState]:
        """Live ones first, then the newest. Raises `RunError` for a folder that cannot be read."""
        with self._lock:
            now = time.monotonic()
            if root != self._root or now - self._read > max(MOMENT, COSTS * self._took):
                found = list_runs(root)
                self._states = sorted(
                    found, key=lambda state: (state.state not in LIVE, -(state.updated or 0))
                )
                self._read, self._took, self._root = time.monotonic(), time.monotonic() - now, root
            return self._states

    def forget(self) -> None:
        """Something was done to a run: the next list is read anew."""
        with self._lock:
            self._read = 0.0


def lines(states: list[RunState], search: str = "") -> list[Line]:
    """The first of those whose name has all words of `search`."""
    words = search.casefold().split()
    found = [state for state in states if all(word in state.folder.name.casefold() for word in words)]
    return [_line(state) for state in found[:SHOWN]]


def _line(state: RunState) -> Line:
    share = state.iteration / state.iterations if state.iterations else 0.0
    return Line(
        state.folder.name, state.state, badge(state.state), _gain(state), ago(state.updated), round(share, 4)
    )


def _gain(state: RunState) -> str:
    """What the held-out score gained, with its interval."""
    if state.held_out:
        return f"{signed(state.held_out.difference)} ± {state.held_out.band:.3f}"
    return f"{state.iteration} of {state.iterations}" if state.iterations else ""
