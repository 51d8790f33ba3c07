"""The studies: which jobs each consists of, and what is written from their results.

Each writes its results as they come to `NAME.jsonl` in the folder, goes on from there when called again, and at the end
writes a table as `NAME.json` and as Markdown, and its plots.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rlr_core.bench import figures
from rlr_core.bench.beds import EMBEDDED, Bed
from rlr_core.bench.breakdown import breakdown, breakdown_settings
from rlr_core.bench.jobs import complete
from rlr_core.bench.learn import Budget, learn, learn_settings
from rlr_core.bench.memory import memory, memory_settings
from rlr_core.bench.methods import Method
from rlr_core.bench.plan import plan_cells, plan_settings, predicted_and_measured
from rlr_core.bench.statistics import Measured, mean_over_seeds
from rlr_core.bench.steps import steps, steps_settings
from rlr_core.bench.store import Store
from rlr_core.bench.terms import has_terms, terms, terms_settings
from rlr_core.bench.variance import product, reference, reference_settings, variance, variance_settings
from rlr_core.errors import ConfigError
from rlr_core.markdown import table
from rlr_core.storage import write_text

ROUNDS = 3
"""In which the methods are timed."""
LEVEL = 0.8
"""Held-out score that a method is timed to."""
TUNING_SEED = 1000
"""Of the jobs that a method's learning rate is chosen by; never one of the seeds that are reported."""


@dataclass(frozen=True)
class Desk:
    """Where a study works.

    Attributes:
        folder: of results and plots.
        workers: jobs at a time.
        device: "cpu", "cuda", a card by its number as "cuda:1", or "mps".
        bed: what it is done on.
    """

    folder: Path
    workers: int
    device: str = "cpu"
    bed: Bed = EMBEDDED

    @property
    def ground(self) -> dict[str, Any]:
        """What jobs' settings take of it."""
        return {"bed": self.bed, "device": self.device}

    def complete(
        self, job: Any, settings: Sequence[dict[str, Any]], study: str, what: str
    ) -> list[dict[str, Any]]:
        """Results of all jobs; what is stored is not done again."""
        store = Store(self.folder / f"{study}.jsonl")
        return complete(job, settings, store, workers=self.workers, what=what)

    def write(self, study: str, rows: Sequence[Mapping[str, Any]], table: str) -> str:
        """Write the rows and their table; returns the table."""
        write_text(self.folder / f"{study}.json", json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n")
        write_text(self.folder / f"{study}.md", table)
        return table


def study_learn(
    methods: Mapping[str, Method], budget: Budget, seeds: int | None, desk: Desk, timed: int = 6
) -> str:
    """Every method's grid of learning rates at one tuning seed, then its best one at `seeds` seeds (None: its own number).

    `timed` iterations tell a method's pace.
    """
    best = _best_rates(methods, budget, desk)
    jobs = [(method, seed) for method in methods.values() for seed in range(seeds or method.seeds)]
    settings = [
        learn_settings(method, best[method.name], seed, budget, **desk.ground) for method, seed in jobs
    ]
    results = desk.complete(learn, settings, "learn", "learning curves")
    pace = _pace(methods, timed, desk)
    curves = {
        name: [
            _timed(result, pace[name])
            for (mine, _), result in zip(jobs, results, strict=True)
            if mine.name == name
        ]
        for name in methods
    }
    everyone = [result for mine in curves.values() for result in mine]
    ran = [result for result in everyone if not result["failure"]] or everyone
    limits = {
        "evaluations": float(budget.evaluations),
        "seconds": min(result["points"][-1]["seconds"] for result in ran),
    }
    for axis, limit in limits.items():
        drawn = {methods[name].label: [result["points"] for result in mine] for name, mine in curves.items()}
        figures.learning_curves(drawn, axis, limit, desk.folder / f"learn-{axis}.png")
    rows = [_learn_row(methods[name], best[name], mine, limits) for name, mine in curves.items()]
    rows.sort(key=lambda row: -row["evaluations"]["value"])
    titles = [
        "method",
        "learning rate",
        "iterations",
        "held-out score at equal evaluations",
        "gained, seed by seed",
        "at equal seconds",
        f"evaluations to {LEVEL}",
        "collapsed",
    ]
    cells = [
        [row["label"], f"{row['learning_rate']:g}", str(row["iterations"]), pm(row["evaluations"]), pm(row["gained"]),
         pm(row["seconds"]), _cost_of_level(row["to_level"], budget), f"{row['collapsed']} of {row['seeds']}"]
        for row in rows
    ]  # fmt: skip
    return desk.write("learn", rows, table(titles, cells))


def _pace(methods: Mapping[str, Method], iterations: int, desk: Desk) -> dict[str, float]:
    """Method → seconds for each network evaluation: the median of rounds in which all take their turn, one at a time."""
    turns = [(method, number) for number in range(ROUNDS) for method in methods.values()]
    settings = [
        breakdown_settings(method, iterations, seed=number, **desk.ground) for method, number in turns
    ]
    results = replace(desk, workers=min(desk.workers, 1)).complete(breakdown, settings, "pace", "seconds")
    return {
        name: median(
            result["seconds"] / result["evaluations"]
            for (mine, _), result in zip(turns, results, strict=True)
            if mine.name == name
        )
        for name in methods
    }


def _timed(result: Mapping[str, Any], pace: float) -> dict[str, Any]:
    """A curve with the seconds that it takes on a machine with nothing else to do, without those of painting its points."""
    points = [{**point, "seconds": pace * point["evaluations"]} for point in result["points"]]
    return {**result, "points": points}


def _best_rates(methods: Mapping[str, Method], budget: Budget, desk: Desk) -> dict[str, float]:
    """Method → its best learning rate at the tuning seed; where it has but one, nothing is run."""
    grid = [
        (method, rate)
        for method in methods.values()
        for rate in method.learning_rates
        if len(method.learning_rates) > 1
    ]
    settings = [learn_settings(method, rate, TUNING_SEED, budget, **desk.ground) for method, rate in grid]
    results = desk.complete(learn, settings, "learn", "learning rates") if grid else []
    best = {name: (-1.0, method.learning_rates[0]) for name, method in methods.items()}
    for (method, rate), result in zip(grid, results, strict=True):
        best[method.name] = max(best[method.name], (_final(result, budget), rate))
    return {name: rate for name, (_, rate) in best.items()}


def _final(result: Mapping[str, Any], budget: Budget) -> float:
    """The held-out score at the budget's end; of a run that failed before, 0."""
    if result["failure"]:
        return 0.0
    return figures.on_grid(result["points"], "evaluations", [budget.evaluations])[0]


def to_level(points: Sequence[Mapping[str, float]], level: float) -> float:
    """Network evaluations after which the curve, linear between its points, is first at `level`; infinite if it never is."""
    if points[0]["held_out"] >= level:
        return points[0]["evaluations"]
    for before, after in pairwise(points):
        if after["held_out"] >= level:
            share = (level - before["held_out"]) / (after["held_out"] - before["held_out"])
            return before["evaluations"] + share * (after["evaluations"] - before["evaluations"])
    return math.inf


def _cost_of_level(evaluations: float | None, budget: Budget) -> str:
    return f"> {budget.evaluations:,}" if evaluations is None else f"{round(evaluations, -2):,.0f}"


def collapsed(result: Mapping[str, Any]) -> bool:
    """Whether training failed, or made held-out pictures worse by more than two standard errors of a point."""
    first, last = result["points"][0], result["points"][-1]
    return bool(result["failure"]) or last["held_out"] < first["held_out"] - 2 * last["error"]


def _learn_row(
    method: Method, rate: float, results: Sequence[Mapping[str, Any]], limits: Mapping[str, float]
) -> dict[str, Any]:
    ends = {
        axis: [figures.on_grid(r["points"], axis, [limit])[0] for r in results]
        for axis, limit in limits.items()
    }
    starts = [r["points"][0]["held_out"] for r in results]
    gained = [end - start for end, start in zip(ends["evaluations"], starts, strict=True)]
    cost = median(to_level(r["points"], LEVEL) for r in results)
    return {
        "method": method.name,
        "label": method.label,
        "learning_rate": rate,
        "seeds": len(results),
        "start": vars(mean_over_seeds(starts)),
        **{axis: vars(mean_over_seeds(values)) for axis, values in ends.items()},
        "gained": vars(mean_over_seeds(gained)),
        "to_level": cost if math.isfinite(cost) else None,  # the median seed's
        "iterations": round(sum(r["points"][-1]["iteration"] for r in results) / len(results)),
        "collapsed": sum(collapsed(r) for r in results),
    }


def study_variance(
    methods: Mapping[str, Method], batches: int, spread: float, cache: Path, desk: Desk
) -> str:
    """Bias, variance and cost of every method at one point."""
    settings = [
        variance_settings(method, batches, spread, cache, **desk.ground) for method in methods.values()
    ]
    desk.complete(reference, [reference_settings(settings[0])], "variance", "reference")
    results = desk.complete(variance, settings, "variance", "variance")
    rows = [
        {"method": method.name, "label": method.label, **result, "product": vars(product(result))}
        for method, result in zip(methods.values(), results, strict=True)
    ]
    rows.sort(key=lambda row: row["product"]["value"])
    drawn = {row["label"]: Measured(**row["product"]) for row in rows}
    figures.bars(
        drawn,
        "variance × cost of one picture, in variances of full back-propagation",
        desk.folder / "variance.png",
    )
    titles = ["method", "|∇J|²", "bias²", "variance", "cost", "variance × cost", "seconds", "peak memory"]
    cells = [
        [row["label"], pm(row["signal"]), pm(row["bias"]), pm(row["variance"]), f"{row['evaluations']:.1f}",
         pm(row["product"]),
         f"{row['seconds']:.3f}", f"{row['megabytes']:.0f} MB"]
        for row in rows
    ]  # fmt: skip
    return desk.write("variance", rows, table(titles, cells))


def study_terms(methods: Mapping[str, Method], pictures: int, spread: float, desk: Desk) -> str:
    """How noisy the half-order term of each sub-chain is; a row for each, and a column for each method.

    Raises `ConfigError` for a method whose gradient has no such terms.
    """
    for method in methods.values():
        if not has_terms(method):
            raise ConfigError(
                f"terms of the method '{method.name}', whose gradient has no sub-chains weighted by 1/p",
                "methods of the estimators rlr, half or reinforce",
                "name such methods with --only",
            )
    settings = [terms_settings(method, pictures, spread, **desk.ground) for method in methods.values()]
    results = desk.complete(terms, settings, "terms", "terms")
    rows = [
        {"method": method.name, "label": method.label, **result}
        for method, result in zip(methods.values(), results, strict=True)
    ]
    parts = sorted({(term["start"], term["stop"]) for row in rows for term in row["terms"]})
    cells = [[_range(*part), *[_term(row, part) for row in rows]] for part in parts]
    cells.append(["one, drawn uniformly", *[pm(row["uniform"]) for row in rows]])
    cells.append(["one, best probabilities", *[pm(row["best"]) for row in rows]])
    cells.append(
        ["evaluations for a term", *[f"{fmean(t['cost'] for t in row['terms']):.1f}" for row in rows]]
    )
    return desk.write("terms", rows, table(["steps", *[row["label"] for row in rows]], cells))


def _range(start: int, stop: int) -> str:
    return f"{start}" if stop == start + 1 else f"{start}–{stop - 1}"


def _term(row: Mapping[str, Any], part: tuple[int, int]) -> str:
    """A cell: the estimated term's second moment, and the back-propagated one's."""
    for term in row["terms"]:
        if (term["start"], term["stop"]) == part:
            return f"{pm(term['estimated'])} ({pm(term['exact'])})"
    return "–"


def study_steps(method: Method, pictures: int, points: Sequence[tuple[float, int]], desk: Desk) -> str:
    """What one picture's gradient tells at each step: at a random LoRA, and after some iterations, as (spread, iterations)."""
    settings = [
        steps_settings(method, pictures, spread, warm_up, **desk.ground) for spread, warm_up in points
    ]
    results = desk.complete(steps, settings, "steps", "steps")
    rows = [
        {"spread": spread, "warm_up": warm_up, **row}
        for (spread, warm_up), result in zip(points, results, strict=True)
        for row in result["steps"]
    ]
    titles = [
        "after", "step", "cost", "median length", "longest / median", "signal", "of directions", "with full BP"
    ]  # fmt: skip
    cells = [
        [f"{row['warm_up']} iterations", row["at"], f"{row['cost']:.0f}",
         f"{row['median']:.3g}", f"{row['tail']:.0f}", pm(row["signal"]), pm(row["direction"]), pm(row["agreement"])]
        for row in rows
    ]  # fmt: skip
    return desk.write("steps", rows, table(titles, cells))


def study_memory(
    methods: Mapping[str, Method], steps: Sequence[int], lengths: Sequence[int], desk: Desk
) -> str:
    """Peak memory of every method at all T with the shortest sub-chain, and at all h with the longest chain."""
    points = [(T, lengths[0]) for T in steps] + [(steps[-1], h) for h in lengths[1:]]
    jobs = [(method, T, h) for method in methods.values() for T, h in points]
    settings = [memory_settings(method, T, h, **desk.ground) for method, T, h in jobs]
    results = desk.complete(memory, settings, "memory", "memory")
    rows = [
        {"method": method.name, "label": method.label, "steps": T, "length": h, **result}
        for (method, T, h), result in zip(jobs, results, strict=True)
    ]
    of = {(row["method"], row["steps"], row["length"]): f"{row['megabytes']:.0f} MB" for row in rows}
    titles = ["method", *[f"T = {T}, h = {h}" for T, h in points]]
    cells = [[method.label, *[of[method.name, T, h] for T, h in points]] for method in methods.values()]
    return desk.write("memory", rows, table(titles, cells))


def study_breakdown(methods: Mapping[str, Method], iterations: int, desk: Desk) -> str:
    """Where the time of an iteration goes; jobs one at a time, so that none disturbs another."""
    settings = [breakdown_settings(method, iterations, **desk.ground) for method in methods.values()]
    results = replace(desk, workers=min(desk.workers, 1)).complete(breakdown, settings, "breakdown", "time")
    rows = [
        {"method": method.name, "label": method.label, **result}
        for method, result in zip(methods.values(), results, strict=True)
    ]
    spans = list(dict.fromkeys(name for row in rows for name in row["spans"]))
    spans.sort(key=lambda name: -max(row["spans"].get(name, 0.0) for row in rows))
    titles = ["span", *[row["label"] for row in rows]]
    cells = [
        [SPANS.get(name, name), *[_share(row, row["spans"].get(name, 0.0)) for row in rows]] for name in spans
    ]
    cells.append(["one iteration", *[f"{row['seconds']:.2f} s" for row in rows]])
    return desk.write("breakdown", rows, table(titles, cells))


def study_plan(desk: Desk, *, quick: bool) -> str:
    """Predictions of the planner against what iterations take; jobs one at a time, each in a process of its own."""
    settings = plan_settings(desk.device, quick=quick)
    results = replace(desk, workers=0).complete(predicted_and_measured, settings, "plan", "plans")
    rows = [
        {"model": _model(mine), "case": mine["case"], **result}
        for mine, result in zip(settings, results, strict=True)
    ]
    titles = ["model", "case", "predicted", "tensors", "off", "process", "off", "seconds"]
    return desk.write("plan", rows, table(titles, plan_cells(rows, desk.device)))


def _model(settings: Mapping[str, Any]) -> str:
    return f"{settings['family']}, {settings['size'] or 'own'} px, {settings['config']['model']['precision']}"


SPANS = {
    "network": "rollout and first order: network",
    "decode": "rollout: decode",
    "reward": "rollout: reward",
    "backward": "first order: backward",
}
"""Spans outside the sub-chain, in plain words."""


def _share(row: Mapping[str, Any], seconds: float) -> str:
    return f"{seconds:.3f} s ({seconds / row['seconds']:.1%})" if seconds else "–"


def pm(value: Mapping[str, float]) -> str:
    """value ± half width, to what the half width lets one know."""
    middle, width = value["value"], value["half_width"]
    if width != width:
        return f"{middle:.3g}"
    places = min(3, 1 - _exponent(width))
    shown = (f"{round(number, places) + 0.0:,.{max(0, places)}f}" for number in (middle, width))
    return " ± ".join(shown)


def _exponent(value: float) -> int:
    return math.floor(math.log10(value)) if value > 0 else -3
