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
from rlr_core.runs.summary import Summary, points, short

from .wording import in_nodes_words

POINTS = 300
"""Of a curve, at most."""
RECENT = 30
"""Iterations whose pace tells what is left."""
REWARD, MIX, SCORE = "reward trained on", "mix trained on (std. dev.)", "held-out score"
"""As curves are called; a mix counts standard deviations from where training began."""
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
        "message": in_nodes_words(state.message.splitlines()[0]) if state.message else "",
        "result": str(state.held_out) if state.held_out else "",
        "curves": curves(summary),
        "preview": next((event["file"] for event in reversed(summary.of("preview"))), ""),
        "lora": lora.name if lora else "",
    }


def curves(summary: Summary) -> dict[str, Points]:
    """Name → points: the reward that is trained on, the held-out score, the parts of a mix, each on its own scale."""
    judged = _held_out(summary)
    name = MIX if len(judged) > 1 else REWARD
    return {name: trained(summary.taken), **judged}


def trained(taken: Iterations) -> Points:
    """The running mean of the batches' reward."""
    known = [k for k, reward in enumerate(taken.rewards) if not math.isnan(reward)]
    means = smoothed([taken.rewards[k] for k in known])
    errors = smoothed_errors([0.0 if math.isnan(taken.errors[k]) else taken.errors[k] for k in known])
    drawn = spread(len(known), POINTS)
    return [(taken.numbers[known[k]], means[k], 1.96 * errors[k]) for k in drawn]


def _held_out(summary: Summary) -> dict[str, Points]:
    """Of the pairs that all checks have, the score and each part of a mix; bands are those of the difference from the start."""
    checks: dict[str, dict[int, list[float | None]]] = {SCORE: {}}
    for event in summary.of("evaluation"):
        parts = {f"part: {short(name)}": scores for name, scores in event.get("parts", {}).items()}
        for name, scores in {SCORE: event["scores"], **parts}.items():
            checks.setdefault(name, {}).setdefault(event["iteration"], scores)
    return {name: points(each) for name, each in checks.items() if each}


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
