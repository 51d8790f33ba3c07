"""The plots of a study, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlr_core.bench.statistics import Measured, mean_over_seeds
from rlr_core.storage import write_atomically

OURS = "#2454a6"
OTHERS = (
    "#c0504d", "#7f7f7f", "#d98e04", "#5b9a3c", "#8064a2", "#3c9a9a", "#a0522d", "#d46a9f", "#4f4f4f", "#9aa832", "#6a8fd4",
)  # fmt: skip


def learning_curves(
    curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], axis: str, limit: float, path: Path
) -> None:
    """Held-out score against "evaluations" or "seconds", with 95% bands over seeds.

    Args:
        curves: label → one list of points for each seed; the first label is ours.
        limit: where the axis ends.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    grid = [limit * k / 10 for k in range(11)]
    for number, (label, seeds) in enumerate(curves.items()):
        again, at_colour = divmod(number - 1, len(OTHERS))
        colour, style = (OURS, "-") if number == 0 else (OTHERS[at_colour], "--" if again else "-")
        at = [
            mean_over_seeds(column)
            for column in zip(*(on_grid(points, axis, grid) for points in seeds), strict=True)
        ]
        middle = [value.value for value in at]
        axes.plot(
            grid, middle, color=colour, linestyle=style, linewidth=2.6 if number == 0 else 1.3, label=label
        )
        if len(seeds) > 1:
            low, high = [value.low for value in at], [value.high for value in at]
            axes.fill_between(grid, low, high, color=colour, alpha=0.22 if number == 0 else 0.10, linewidth=0)
    axes.set(
        xlabel={"evaluations": "network evaluations", "seconds": "seconds of training"}[axis],
        ylabel="held-out score",
        xlim=(0, limit),
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(figure, path)


def on_grid(points: Sequence[Mapping[str, float]], axis: str, grid: Sequence[float]) -> list[float]:
    """The held-out score at `grid`, linear between the points; after a run that failed, its last one."""
    x, y = ([point[key] for point in points] for key in (axis, "held_out"))
    return [float(np.interp(at, x, y)) for at in grid]


def bars(rows: Mapping[str, Measured], title: str, path: Path) -> None:
    """Values on a logarithmic axis with their intervals; what is not positive, being all noise, is left out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.36 * len(rows) + 1.1), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    rows = {label: value for label, value in rows.items() if value.value > 0}
    labels, values = list(rows), list(rows.values())
    widths = [[min(v.half_width, 0.95 * v.value) for v in values], [v.half_width for v in values]]
    axes.barh(
        labels, [v.value for v in values], xerr=widths, color=OURS, alpha=0.75, error_kw={"ecolor": "#333333"}
    )
    axes.invert_yaxis()
    axes.set(xscale="log" if rows else "linear", xlabel=title)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getvalue()))
