"""The alarm: a hacked reward, which rises while what only watches falls, or a collapse, where it falls itself.

At every check the same (prompt, seed) pairs are painted and scored. A series (the held-out score, every watched reward, the
diversity) has fallen where its mean difference to any earlier check, pair by pair, is below 0 in a one-sided Student's t-test
at level false_alarms / number of tests of the whole run. By the union bound a run in which nothing falls raises the alarm with
at most the probability false_alarms, whichever check it is compared with: the start, the best so far or any other. A pair that
has no finite score at either check is left out of their comparison.

A reward is hacked where, besides, the trained reward is above that of the start (at 5%) and has not fallen since that check.
Training has collapsed where the trained reward has fallen below that of the start; the two exclude each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

TRAINED = "the reward trained on"
"""Name of the series that rises when a reward is hacked, and falls when training collapses."""
ROSE = 0.05
"""Level of the test that the trained reward has risen."""


@dataclass(frozen=True)
class Fall:
    """A series that fell.

    Attributes:
        series: its name.
        check: number of the check that it has fallen since.
        before, now: its means there and now.
        half_width: of the 95% confidence interval of the mean difference (normal approximation).
        probability: of such a fall by chance, in a single test.
    """

    series: str
    check: int
    before: float
    now: float
    half_width: float
    probability: float


@dataclass
class Alarm:
    """Watches the checks of one run.

    Attributes:
        checks: how many the whole run makes, the one at the start included.
        false_alarms: probability of a false alarm in the whole run.
        history: every check so far, series → (n,).
    """

    checks: int
    false_alarms: float
    history: list[dict[str, Tensor]] = field(default_factory=list)

    def __call__(self, scores: Mapping[str, Tensor]) -> list[Fall]:
        """Take up a check: `TRAINED` and the watched series, (n,) each. If it is an alarm: what fell, the surest first."""
        self.history.append({name: values.double() for name, values in scores.items()})
        if len(self.history) == 1:
            return []
        watched = [name for name in scores if name != TRAINED]
        suspects = self._checks_since_which_training_went_well()
        only_the_start = [number == 0 for number in range(len(suspects))]
        falls = [self._surest_fall(name, suspects) for name in watched]
        falls.append(self._surest_fall(TRAINED, only_the_start))
        level = self.false_alarms / self._tests(len(watched))
        sure = [fall for fall in falls if fall.probability < level]
        return sorted(sure, key=lambda fall: fall.probability)

    def _tests(self, watched: int) -> int:
        """Of the whole run: pairs of checks for every watched series, and the trained reward against the start."""
        checks = max(self.checks, len(self.history))
        return math.comb(checks, 2) * watched + checks - 1

    def _past(self, series: str) -> Tensor:
        """All checks but the present one, (k, n)."""
        return torch.stack([check[series] for check in self.history[:-1]])

    def _checks_since_which_training_went_well(self) -> list[bool]:
        """Of each earlier check, whether the trained reward is now above the start and no lower than there."""
        past, now = self._past(TRAINED), self.history[-1][TRAINED]
        rose = probabilities(now - past[:1])[0] < ROSE
        return [rose and fell >= ROSE for fell in probabilities(past - now)]

    def _surest_fall(self, series: str, suspects: list[bool]) -> Fall:
        """Of the changes of `series` since each suspected check; its probability is 1 where there is none."""
        past, now = self._past(series), self.history[-1][series]
        chances = [
            chance if suspect else 1.0
            for chance, suspect in zip(probabilities(past - now), suspects, strict=True)
        ]
        check = chances.index(min(chances))
        both = (now - past[check]).isfinite()
        before, now = past[check][both], now[both]
        half_width = 1.96 * float((now - before).std()) / math.sqrt(len(now)) if len(now) > 1 else math.nan
        return Fall(series, check, float(before.mean()), float(now.mean()), half_width, chances[check])

    def state_dict(self) -> dict[str, Any]:
        """All checks so far."""
        return {"history": [dict(check) for check in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.history = [dict(check) for check in state["history"]]


def probabilities(differences: Tensor) -> list[float]:
    """One-sided p-value of the mean of each row of `differences` (k, n) being above 0; 1 where that cannot be told.

    Student's t-test of the finite ones, but never below 2^-n, the probability that n differences of random sign are all
    positive: so few pairs show nothing, however alike they are.
    """
    finite = differences.isfinite()
    if finite.all():
        return _probabilities(differences)
    rows = (row[mine][None] for row, mine in zip(differences, finite, strict=True))
    return [chance for row in rows for chance in _probabilities(row)]


def _probabilities(differences: Tensor) -> list[float]:
    n = differences.shape[1]
    if n < 2:
        return [1.0] * len(differences)
    t = differences.mean(1) / (differences.std(1) / math.sqrt(n))  # infinite where all are alike
    return [max(student_tail(value, n - 1), 0.5**n) if value > 0 else 1.0 for value in t.tolist()]


def student_tail(t: float, freedom: int) -> float:
    """P(T > t), t ≥ 0, for Student's t with `freedom` degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    inside = math.sin(angle) * total
    return (1 - (2 / math.pi * (angle + inside) if odd else inside)) / 2
