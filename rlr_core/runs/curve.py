"""A run's reward curve."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.iterations import spread
from rlr_core.runs.summary import Summary
from rlr_core.storage import write_atomically

POINTS = 2000
"""Drawn at most: more than the picture has columns of pixels."""


@dataclass(frozen=True)
class _Colours:
    paper: str
    ink: str
    faint: str
    line: str
    alarm: str


LIGHT = _Colours("#ffffff", "#222222", "#b8c4d6", "#2454a6", "#b3261e")
DARK = _Colours("#1d1f23", "#e4e4e0", "#56617a", "#8ab4f8", "#f28b82")


def write_curve(directory: RunDirectory) -> None:
    """Write `reward.png` from the log."""
    curve = reward_curve(Summary.read(directory.events_file))
    write_atomically(directory.folder / "reward.png", lambda path: path.write_bytes(curve))


def reward_curve(summary: Summary, *, narrow: bool = False, dark: bool = False) -> bytes:
    """PNG: the reward of each batch, and its running mean with a 95% band. A narrow one can be read on a telephone."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    colours = DARK if dark else LIGHT
    figure = Figure(
        figsize=(4.2, 3.4) if narrow else (8, 3.6), dpi=180, layout="constrained", facecolor=colours.paper
    )
    axes = figure.add_subplot(facecolor=colours.paper)
    _draw(axes, summary, colours)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6 if narrow else 10))
    axes.set_xlabel("iteration", color=colours.ink)
    axes.set_ylabel("reward of the batch", color=colours.ink)
    axes.set_title("Reward of the pictures that are trained on", color=colours.ink, fontsize=11, loc="left")
    axes.tick_params(colors=colours.ink)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(colours.faint)
    figure.legend(
        loc="outside lower left", ncols=2 if narrow else 4, frameon=False, labelcolor=colours.ink, fontsize=9
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: Any, summary: Summary, colours: _Colours) -> None:
    taken = summary.taken
    batches = [k for k, reward in enumerate(taken.rewards) if not math.isnan(reward)]
    smooth = smoothed([taken.rewards[k] for k in batches])
    errors = smoothed_errors([0.0 if math.isnan(taken.errors[k]) else taken.errors[k] for k in batches])
    drawn = spread(len(batches), POINTS)
    x, rewards = ([column[batches[k]] for k in drawn] for column in (taken.numbers, taken.rewards))
    mean = [smooth[k] for k in drawn]
    low, high = ([smooth[k] + sign * 1.96 * errors[k] for k in drawn] for sign in (-1, 1))
    axes.plot(x, rewards, ".", color=colours.faint, markersize=4, label="one batch")
    axes.plot(x, mean, color=colours.line, label="running mean")
    axes.fill_between(x, low, high, color=colours.line, alpha=0.2, linewidth=0, label="its 95% band")
    for event in summary.of("alarm"):
        axes.axvline(event["iteration"], color=colours.alarm, linestyle="--", linewidth=1.2, label="alarm")


def smoothed(values: list[float], decay: float = 0.8) -> list[float]:
    """Running mean with bias correction, as in Adam."""
    out, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        out.append(total / weight)
    return out


def smoothed_errors(errors: list[float], decay: float = 0.8) -> list[float]:
    """Standard errors of `smoothed`, for independent batches."""
    out, variance, weight = [], 0.0, 0.0
    for error in errors:
        variance, weight = decay**2 * variance + error**2, decay * weight + 1
        out.append(variance**0.5 / weight)
    return out
