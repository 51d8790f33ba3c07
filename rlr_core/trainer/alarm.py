"""The alarm: a hacked reward, which rises while what only watches falls, or training that makes things worse.

At every check the same (prompt, seed) pairs are painted and scored: some of them on the way, all at the start and at the end.
A check is compared, pair by pair, with the start and with the best check so far. A series has fallen where its mean difference
is below 0 in a one-sided Student's t-test on the pairs that both checks have. Half of the rate of false alarms is spent on
comparisons with the start, (checks - 1) × series of them, and half on those with another check: the best one is chosen by
its scores, so that all (checks - 1)(checks - 2) / 2 × series that could be count. By the union bound a run in which nothing
falls raises the alarm with at most that rate. A pair without a finite score at either check is left out of their comparison.

Few pairs resolve no small fall at such levels. So a check that looks fallen, on its few pairs and at 5%, is in doubt: all
pairs are painted, and they decide. That spends nothing, since where there is no doubt there is no alarm either.

Diversity alone has to fall by more than a twentieth of itself: pictures that come right are a little more alike.

The trained reward and the held-out score judge: their fall is an alarm whatever becomes of the others. That of another series
is one where the trained reward is above that of the start (at 5%) and has not fallen since that check: it may be hacked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

TRAINED = "the reward trained on"
"""Name of the series that rises when a reward is hacked."""
HELD_OUT = "held-out score"
"""Name of the series by which a LoRA is the best."""
DIVERSITY = "diversity"
SPARED = 0.05
"""Of the diversity at the check that it is compared with, what it may lose."""
ROSE = DOUBT = 0.05
"""Levels of the tests that the trained reward has risen, and that a series is in doubt."""

Scores = Mapping[str, Tensor]
"""A check: series → (n,), of the first n pairs."""


@dataclass(frozen=True)
class Fall:
    """A series that fell.

    Attributes:
        series: its name.
        check: number of the check that it has fallen since.
        before, now: its means there and now, of `pairs` pairs.
        half_width: of the 95% confidence interval of the mean difference (normal approximation).
        probability: at most that of such a fall by chance in a whole run.
        hacked: whether the trained reward is above that of the start, and has not fallen since that check.
    """

    series: str
    check: int
    before: float
    now: float
    pairs: int
    half_width: float
    probability: float
    hacked: bool


@dataclass
class Alarm:
    """Watches the checks of one run.

    Attributes:
        checks: how many the whole run makes, those at the start and at the end included.
        false_alarms: probability of a false alarm in the whole run.
        history: every check so far.
    """

    checks: int
    false_alarms: float
    history: list[Scores] = field(default_factory=list)

    def doubted(self, now: Scores, best: int | None) -> list[int]:
        """Numbers of the earlier checks, of the start and the `best`, since which a series may have fallen."""
        return [check for check in self._references(best) if self._is_doubted(now, check)]

    def __call__(self, now: Scores, best: int | None = None) -> list[Fall]:
        """Take up a check. If it is an alarm: of each series that fell its surest fall, the surest first."""
        falls = [fall for check in self._references(best) for fall in self._falls(now, check)]
        self.take(now)
        surest: dict[str, Fall] = {}
        for fall in sorted(falls, key=lambda fall: fall.probability):
            surest.setdefault(fall.series, fall)
        return list(surest.values())

    def below_the_start(self) -> list[str]:
        """Of what judges, what the latest check has below the start, by all its pairs at the level of a doubt.

        A held-out score that falls while the trained reward rises says that this reward is not what is wanted, not that
        training makes things worse; that is for the alarm.
        """
        start, now = self.history[0], self.history[-1]
        rose = _chance_of_fall(now[TRAINED], start[TRAINED]) < ROSE
        told = []
        for name in (TRAINED,) if rose else (TRAINED, HELD_OUT):
            if _chance_of_fall(start[name], now[name]) < DOUBT:
                before, after = (
                    float(each[each.isfinite()].mean()) for each in _common(start[name], now[name])
                )
                told.append(f"{name} is below that of the start: {before:.3f} → {after:.3f}")
        return told

    def rose(self, check: int) -> bool:
        """Whether the held-out score of a check, which was chosen among all, is above that of the start."""
        start, then = self.history[0][HELD_OUT], self.history[check][HELD_OUT]
        return _chance_of_fall(then, start) < ROSE / len(self.history)

    def take(self, scores: Scores) -> None:
        """Take up a check without a judgement."""
        self.history.append({name: values.double() for name, values in scores.items()})

    def replace(self, check: int, scores: Scores) -> None:
        """Give a check that was taken up more pairs."""
        self.history[check] = {name: values.double() for name, values in scores.items()}

    def _references(self, best: int | None) -> list[int]:
        """What a check is compared with."""
        return sorted({0, best or 0}) if self.history else []

    def _is_doubted(self, now: Scores, check: int) -> bool:
        doubt = DOUBT / max(1, len(self.history) - 1) if check else DOUBT  # the best of so many was chosen
        level = max(self.false_alarms, doubt * self._tests(check, len(now)))
        return any(chance < level for chance in self._chances(now, check).values())

    def _tests(self, check: int, series: int) -> int:
        """By how many a probability is multiplied: comparisons of its kind in the whole run, with half of the rate for them."""
        checks = max(self.checks, len(self.history) + 1)
        return 2 * series * (math.comb(checks - 1, 2) if check else checks - 1)

    def _chances(self, now: Scores, check: int) -> dict[str, float]:
        """Of each series that counts, the probability that it has fallen since `check` by chance, in a whole run."""
        counted = now if self._went_well(now, check) else (TRAINED, HELD_OUT)
        past, tests = self.history[check], self._tests(check, len(now))
        kept = {
            name: past[name] * (1 - SPARED if name == DIVERSITY else 1) for name in counted if name in now
        }
        return {name: _chance_of_fall(least, now[name]) * tests for name, least in kept.items()}

    def _falls(self, now: Scores, check: int) -> list[Fall]:
        """What has surely fallen since `check`."""
        chances = self._chances(now, check)
        return [self._fall(name, now, check, p) for name, p in chances.items() if p < self.false_alarms]

    def _went_well(self, now: Scores, check: int) -> bool:
        """Whether the trained reward is above the start and no lower than at `check`."""
        rose = _chance_of_fall(now[TRAINED], self.history[0][TRAINED]) < ROSE
        return rose and _chance_of_fall(self.history[check][TRAINED], now[TRAINED]) >= ROSE

    def _fall(self, series: str, now: Scores, check: int, chance: float) -> Fall:
        before, after = _common(self.history[check][series], now[series])
        both = (after - before).isfinite()
        before, after = before[both], after[both]
        half_width = 1.96 * float((after - before).std()) / math.sqrt(len(after))
        means = float(before.mean()), float(after.mean())
        return Fall(series, check, *means, len(after), half_width, chance, self._went_well(now, check))

    def state_dict(self) -> dict[str, Any]:
        """All checks so far."""
        return {"history": [dict(check) for check in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.history = [dict(check) for check in state["history"]]


def _common(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs that both have: the first ones."""
    count = min(len(one), len(other))
    return one[:count].double(), other[:count].double()


def _chance_of_fall(before: Tensor, after: Tensor) -> float:
    """p-value of the hypothesis that `after` is no lower."""
    one, other = _common(before, after)
    return probabilities((one - other)[None])[0]


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
