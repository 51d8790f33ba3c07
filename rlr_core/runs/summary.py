"""What a run achieved, from its event log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rlr_core.runs import log


@dataclass(frozen=True)
class Comparison:
    """Scores of the same (prompt, seed) pairs before and after training.

    Attributes:
        before, after: means.
        half_width: half of the 95% confidence interval of the mean difference, pair by pair (normal approximation).
        pairs: how many.
    """

    before: float
    after: float
    half_width: float
    pairs: int

    @property
    def difference(self) -> float:
        """after − before."""
        return self.after - self.before

    @property
    def verdict(self) -> str:
        """In plain words; "clear" is at 95% confidence."""
        if abs(self.difference) > self.half_width:
            return "got better" if self.difference > 0 else "got worse"
        return "did not clearly change"

    @classmethod
    def of(cls, before: Sequence[float], after: Sequence[float]) -> Comparison:
        """Compare equally long lists of scores."""
        differences = [b - a for a, b in zip(before, after, strict=True)]
        error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
        return cls(fmean(before), fmean(after), 1.96 * error, len(differences))

    def __str__(self) -> str:
        sign = "+" if self.difference >= 0 else "−"
        change = f"{sign}{abs(self.difference):.3f} ± {self.half_width:.3f}"
        return f"{self.before:.3f} → {self.after:.3f}  ({change}, 95% confidence, {self.pairs} pairs)"


@dataclass(frozen=True)
class Summary:
    """A run's evaluations before and after, where it has both.

    Attributes:
        held_out: by the reward that only watches.
        trained: by the reward that is trained on.
    """

    held_out: Comparison | None
    trained: Comparison | None
    events: list[dict[str, Any]]

    @classmethod
    def read(cls, events_file: Path) -> Summary:
        """From an event log."""
        events = log.read(events_file)
        evaluations = {event["when"]: event for event in events if event["type"] == "evaluation"}
        if not {"before", "after"} <= set(evaluations):
            return cls(None, None, events)
        pair = [evaluations[when] for when in ("before", "after")]
        held_out, trained = (Comparison.of(*(event[key] for event in pair)) for key in ("scores", "rewards"))
        return cls(held_out, trained, events)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of one type."""
        return [event for event in self.events if event["type"] == kind]
