"""A run's folder as a node shows it: state, curves, the newest preview. The folder is the truth, also after a reload."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean
from typing import Any

from rlr_core.errors import RLRError
from rlr_core.runs import RunDirectory
from rlr_core.runs.curve import smoothed, smoothed_errors
from rlr_core.runs.iterations import Iterations, spread
from rlr_core.runs.summary import Summary, points

POINTS = 300
"""Of a curve, at most."""
RECENT = 30
"""Iterations whose pace tells what is left."""
Points = list[tuple[float, float, float]]
"""(Iteration, value, half width of its 95% band)."""


def snapshot(directory: RunDirectory) -> dict[str, Any]:
    """What is shown of a run. Raises `RLRError` where its log cannot be read."""
    state, summary = directory.state(), Summary.read(directory.events_file)
    lora = lora_file(directory)
    left = state.iterations - state.iteration if state.state == "running" else 0
    return {
        "run": directory.folder.name,
        "state": state.state,
        "iteration": state.iteration,
        "iterations": state.iterations,
        "seconds_left": seconds_left(summary.taken, left),
        "message": state.message.splitlines()[0] if state.message else "",
        "result": str(state.held_out) if state.held_out else "",
        "trained": trained(summary.taken),
        "held_out": held_out(summary),
        "preview": next((event["file"] for event in reversed(summary.of("preview"))), ""),
        "lora": lora.name if lora else "",
    }


def trained(taken: Iterations) -> Points:
    """The running mean of the batches' reward."""
    known = [k for k, reward in enumerate(taken.rewards) if not math.isnan(reward)]
    means = smoothed([taken.rewards[k] for k in known])
    errors = smoothed_errors([0.0 if math.isnan(taken.errors[k]) else taken.errors[k] for k in known])
    drawn = spread(len(known), POINTS)
    return [(taken.numbers[known[k]], means[k], 1.96 * errors[k]) for k in drawn]


def held_out(summary: Summary) -> Points:
    """The held-out score of the pairs that all checks have; the band is that of the difference from the start."""
    checks: dict[int, list[float | None]] = {}
    for event in summary.of("evaluation"):
        checks.setdefault(event["iteration"], event["scores"])
    return points(checks) if checks else []


def seconds_left(taken: Iterations, left: int) -> float | None:
    """By the pace of the last iterations; None before there is one."""
    recent = [seconds for seconds in taken.seconds[-RECENT:] if not math.isnan(seconds)]
    return fmean(recent) * left if recent else None


def lora_file(directory: RunDirectory, *, best: bool = False) -> Path | None:
    """The LoRA that came of a run so far, or the best on the way."""
    try:
        name = directory.config.output.name
    except RLRError:
        return None
    file = directory.folder / f"{name}{'-best' if best else ''}.safetensors"
    return file if file.is_file() else None
