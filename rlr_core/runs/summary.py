"""What a run achieved, from its event log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rlr_core.runs.iterations import Iterations
from rlr_core.runs.log import Follower


@dataclass(frozen=True)
class Comparison:
    """Scores of the same (prompt, seed) pairs before and after training.

    Attributes:
        before, after: means.
        half_width: half of the 95% confidence interval of the mean difference, pair by pair (normal approximation).
        pairs: how many.
        unscored: pairs that are left out, since one of their scores was NaN or infinite.
    """

    before: float
    after: float
    half_width: float
    pairs: int
    unscored: int = 0

    @property
    def difference(self) -> float:
        """after − before."""
        return self.after - self.before

    @property
    def band(self) -> float:
        """`half_width`, or 0 where a single pair tells none."""
        return 0.0 if math.isnan(self.half_width) else self.half_width

    @property
    def verdict(self) -> str:
        """In plain words; "clear" is at 95% confidence."""
        if abs(self.difference) > self.half_width:
            return "got better" if self.difference > 0 else "got worse"
        return "did not clearly change"

    @classmethod
    def of(cls, before: Sequence[float | None], after: Sequence[float | None]) -> Comparison | None:
        """Compare equally long lists of scores, in which None is one that was not finite; None where no pair is left."""
        pairs = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
        if not pairs:
            return None
        differences = [b - a for a, b in pairs]
        error = standard_error(differences) if len(pairs) > 1 else math.nan
        mean_before, mean_after = (fmean(scores) for scores in zip(*pairs, strict=True))
        return cls(mean_before, mean_after, 1.96 * error, len(pairs), len(before) - len(pairs))

    @property
    def counted(self) -> str:
        """How many pairs, in words."""
        return f"{self.pairs} pairs" + (f", {self.unscored} more without a score" if self.unscored else "")

    @property
    def change(self) -> str:
        """The difference with its uncertainty, as "+0.597 ± 0.109"."""
        sign = "+" if self.difference >= 0 else "−"
        return f"{sign}{abs(self.difference):.3f} ± {self.half_width:.3f}"

    def __str__(self) -> str:
        return f"{self.before:.3f} → {self.after:.3f}  ({self.change}, 95% confidence, {self.counted})"


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of two or more numbers. `statistics.stdev` computes in fractions, and takes four times as long."""
    mean, count = fmean(values), len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)


@dataclass(frozen=True)
class Series:
    """What one reward or statistic says of the same pictures before, during and after training.

    Attributes:
        group: "trained", "part", "held-out", "watched" or "statistic".
        comparison: of all evaluated pairs.
        points: (iteration, mean, half of the 95% interval of its difference to the start) of the pairs that every check has;
            none of a check at which no pair has a score.
        pairs: how many those are.
    """

    group: str
    name: str
    comparison: Comparison
    points: list[tuple[float, float, float]]
    pairs: int


@dataclass(frozen=True)
class Better:
    """A LoRA in the run's folder that did better on the way than the run's own one at the end.

    Attributes:
        compared: the held-out scores of the run's own LoRA and of this one, on the pairs that both have.
        start: mean held-out score of the start on the first so many pairs; a better LoRA may be below it, too.
    """

    file: str
    iteration: int
    compared: Comparison
    start: float

    def __str__(self) -> str:
        return (
            f"of iteration {self.iteration}: held-out score {self.compared.after:.3f}, where the run's own LoRA has "
            f"{self.compared.before:.3f} and the start {self.start:.3f} on the same {self.compared.counted} "
            "(as the best of several checks it is flattered)"
        )


@dataclass(frozen=True)
class Summary:
    """A run's evaluations before and after, where it has both.

    Attributes:
        held_out: by the reward that only watches.
        trained: by the reward that is trained on.
        events: that count, but for those of iterations and of how far a painting has come.
        taken, skipped: the iterations.
        series: these two, parts of a mix, watched rewards and image statistics.
        better: where the pictures got worse, the LoRA of the best check.
    """

    held_out: Comparison | None
    trained: Comparison | None
    events: list[dict[str, Any]]
    taken: Iterations
    skipped: Iterations
    series: list[Series] = field(default_factory=list)
    better: Better | None = None

    @classmethod
    def read(cls, events_file: Path) -> Summary:
        """From an event log, which may be larger than the memory."""
        told = _read(events_file)
        events = told[0]
        evaluations = [event for event in events if event["type"] == "evaluation"]
        if not {"before", "after"} <= {event["when"] for event in evaluations}:
            return cls(None, None, *told)
        series = _series(evaluations)
        known = {each.group: each.comparison for each in series}
        held_out, better = known.get("held-out"), None
        if held_out and held_out.verdict == "got worse":
            better = _better([event for event in events if event["type"] == "best"], evaluations)
        return cls(held_out, known.get("trained"), *told, series, better)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of one type."""
        return [event for event in self.events if event["type"] == kind]


def _read(events_file: Path) -> tuple[list[dict[str, Any]], Iterations, Iterations]:
    """What counts of a log (see `log.counting`): events, and the iterations that were taken and skipped."""
    events: list[dict[str, Any]] = []
    tables = {"iteration": Iterations(), "skipped": Iterations()}
    for event in Follower(events_file).each():
        kind = event["type"]
        if kind in tables:
            tables[kind].add(event)
        elif kind == "resumed":
            for table in tables.values():
                table.go_back(event["after"])
            while events and events[-1]["seq"] > event["after"]:
                events.pop()
        elif kind != "painting":
            events.append(event)
    return events, tables["iteration"], tables["skipped"]


def compared(before: Sequence[Any], after: Sequence[Any]) -> Comparison | None:
    """Scores as the log has them, null those that were not finite; None where the pairs differ, or none is left."""
    known = all(score is None or isinstance(score, (int, float)) for score in (*before, *after))
    return Comparison.of(before, after) if before and len(before) == len(after) and known else None


GROUPS = {"parts": "part", "watched": "watched", "statistics": "statistic"}


def _series(evaluations: list[dict[str, Any]]) -> list[Series]:
    """From the evaluation before training, the checks on the way, and the evaluation after."""
    tables = [_scores_by_series(event) for event in evaluations]
    found = []
    for group, name in tables[0]:
        scores = [table.get((group, name), []) for table in tables]
        compared = Comparison.of(scores[0], scores[-1]) if len(scores[0]) == len(scores[-1]) else None
        if compared:
            checks: dict[int, list[float | None]] = {}
            for event, own in zip(evaluations[:-1], scores[:-1], strict=True):
                checks.setdefault(
                    event["iteration"], own
                )  # the first of an iteration: no more pairs than the others
            found.append(Series(group, name, compared, points(checks), min(map(len, checks.values()))))
    return found


def _better(found: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> Better | None:
    """The newest of the best LoRAs, each of which takes the place of the one before, if it beats that of the end."""
    if not found or found[-1]["iteration"] == evaluations[-1]["iteration"]:
        return None
    best = found[-1]
    scores = next((each["scores"] for each in evaluations if each["iteration"] == best["iteration"]), [])
    compared = Comparison.of(evaluations[-1]["scores"][: len(scores)], scores)
    start = Comparison.of(evaluations[0]["scores"][: len(scores)], scores)
    won = compared and compared.difference > 0
    return (
        Better(best["file"], best["iteration"], compared, start.before)
        if compared and start and won
        else None
    )


def _scores_by_series(event: dict[str, Any]) -> dict[tuple[str, str], list[float | None]]:
    scores = {("trained", ""): event["rewards"], ("held-out", ""): event["scores"]}
    for table, group in GROUPS.items():
        scores |= {(group, name): values for name, values in event.get(table, {}).items()}
    return scores


def points(checks: dict[int, list[float | None]]) -> list[tuple[float, float, float]]:
    """(Iteration, mean, half width of the paired difference from the start) of scores by iteration, the start first."""
    count = min(map(len, checks.values()))
    start = next(iter(checks.values()))[:count]
    compared = {x: Comparison.of(start, values[:count]) for x, values in checks.items()}
    return [(x, each.after, each.band) for x, each in compared.items() if each]


def short(reward: str) -> str:
    """A reward's name without its file's folder."""
    if reward.endswith(".py"):
        return Path(reward).name
    path, colon, function = reward.rpartition(":")
    return f"{Path(path).name}:{function}" if colon and path.endswith(".py") else reward
