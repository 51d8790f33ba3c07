"""One run as it moves: its log is read as it grows, every byte once, and kept in the short form that a page draws."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any

from rlr_core.runs.curve import smoothed, smoothed_errors
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.log import Follower
from rlr_core.runs.summary import points

RECENT = 30
"""Iterations whose pace tells what is left."""
WIDTHS = 8
"""Of browsers, for which charts are kept."""
KEPT = 16
"""Runs that are kept in memory; a run that is looked at again is read again."""

Points = list[tuple[float, float, float]]


@dataclass
class Live:
    """What a run's log has told so far.

    Attributes:
        iterations: "iteration" and "skipped" events that count, each with what is drawn of it alone.
        checks: "evaluation" events: iteration, when, scores, rewards, watched.
        previews: "preview" events, without scores.
        others: "alarm", "best", "warning", "failed", … by type, in order.
        painting: how far pictures are that are being painted now.
        latest: number of the last event.
    """

    follower: Follower
    iterations: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    previews: list[dict[str, Any]] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)
    painting: dict[str, Any] | None = None
    latest: int = 0
    _drawn: dict[int, tuple[int, str]] = field(default_factory=dict)
    _curves: dict[str, tuple[int, Points]] = field(default_factory=dict)

    def drawn(self, width: int, draw: Callable[[], str]) -> str:
        """The charts of a width, drawn anew when something has come."""
        latest, html = self._drawn.get(width, (-1, ""))
        if latest != self.latest:
            html = draw()
            self._drawn = {**dict([*self._drawn.items()][-WIDTHS:]), width: (self.latest, html)}
        return html

    def follow(self) -> None:
        """Take in what has come since."""
        for event in self.follower.each():
            self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        self.latest = event["seq"]
        self.painting = event if event["type"] == "painting" else None
        match event["type"]:
            case "resumed":
                self._go_back(event["after"])
            case "iteration" | "skipped":
                self.iterations.append(_short(event))
            case "evaluation":
                self.checks.append(event)
            case "preview":
                self.previews.append(
                    {key: event.get(key) for key in ("seq", "iteration", "file", "prompts", "seeds")}
                )
            case "painting":
                pass
            case _:
                self.others.append(event)

    def _go_back(self, after: int) -> None:
        """What came after event `after` is void."""
        for events in (self.iterations, self.checks, self.previews, self.others):
            while events and events[-1]["seq"] > after:
                events.pop()

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The other events of one type."""
        return [event for event in self.others if event["type"] == kind]

    @property
    def done(self) -> int:
        """Iterations."""
        return self.iterations[-1]["iteration"] if self.iterations else 0

    def seconds_left(self, total: int) -> float | None:
        """By the pace of the last iterations, previews and checks included; None before there is one."""
        recent = [event for event in self.iterations[-RECENT:] if event["time"]]
        if len(recent) < 2:
            return None
        paces = [b["time"] - a["time"] for a, b in pairwise(recent)]
        mean = (recent[-1]["time"] - recent[0]["time"]) / (len(recent) - 1)
        pace = mean if len(recent) >= RECENT // 2 else median(paces)
        return max(0.0, pace * (total - self.done))

    def held_out(self) -> Points:
        """(Iteration, mean score, half width of the difference from the start), of the pairs that all checks have."""
        return self._curve("", lambda event: event["scores"])

    def watched(self, name: str) -> Points:
        """The same of a reward that only watches."""
        return self._curve(name, lambda event: event.get("watched", {}).get(name))

    def _curve(self, name: str, scores_of: Callable[[dict[str, Any]], list[float | None] | None]) -> Points:
        """Computed anew when there is a new check."""
        newest = self.checks[-1]["seq"] if self.checks else 0
        if name not in self._curves or self._curves[name][0] != newest:
            checks: dict[int, list[float | None]] = {}
            for event in self.checks:
                if scores := scores_of(event):
                    checks.setdefault(event["iteration"], scores)
            self._curves[name] = newest, points(checks) if checks else []
        return self._curves[name][1]

    def trained(self) -> Points:
        """(Iteration, running mean of the batches' reward, half width of its 95% band)."""
        known = [event for event in self.iterations if event.get("reward") is not None]
        means = smoothed([event["reward"] for event in known])
        errors = smoothed_errors([event["reward_error"] or 0.0 for event in known])
        return [
            (event["iteration"], mean, 1.96 * error)
            for event, mean, error in zip(known, means, errors, strict=True)
        ]


def _short(event: dict[str, Any]) -> dict[str, Any]:
    """Of an iteration, what is drawn: a run may have tens of thousands."""
    clock = event.get("clock") or {}
    kept = {key: event.get(key) for key in ("seq", "iteration", "reward", "reward_error", "reason")}
    return {
        **kept,
        "parts": event.get("parts") or {},
        "distance": (event.get("step") or {}).get("distance"),
        "time": clock.get("time"),
        "seconds": clock.get("seconds"),
    }


class Lives:
    """The runs that were looked at last, shared by all browsers."""

    def __init__(self) -> None:
        self._known: OrderedDict[Path, Live] = OrderedDict()
        self._lock = Lock()

    def of(self, directory: RunDirectory) -> Live:
        """The run as its log tells it now. Raises `RunError` where it cannot be read."""
        with self._lock:
            live = self._known.pop(directory.folder, None) or Live(Follower(directory.events_file))
            self._known[directory.folder] = live
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
            if _began_anew(live):
                live = self._known[directory.folder] = Live(Follower(directory.events_file))
            live.follow()
            return live


def _began_anew(live: Live) -> bool:
    """Whether the log is another one than was read."""
    try:
        return live.follower.path.stat().st_size < live.follower.offset
    except OSError:
        return live.follower.offset > 0
