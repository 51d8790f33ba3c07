"""What the scores of a comparison say, in words, charts, and the strength to prefer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rlr_core.runs.summary import Comparison, standard_error
from ui import jobs
from ui.strengths import strength_chart

Table = list[list[float | None]]
"""A reward's scores, row by row."""


def interval(scores: Sequence[float | None]) -> tuple[float, float] | None:
    """Mean and half of its 95% confidence interval (normal approximation; NaN of one score); None where none is known."""
    known = [score for score in scores if score is not None]
    if not known:
        return None
    return fmean(known), 1.96 * standard_error(known) if len(known) > 1 else math.nan


def intervals(scores: Sequence[float | None]) -> str:
    """The same for people."""
    found = interval(scores)
    if found is None:
        return "–"
    digits = 3 if abs(found[0]) < 100 else 1
    return f"{found[0]:.{digits}f}" + ("" if math.isnan(found[1]) else f" ± {found[1]:.{digits}f}")


def view(name: str, folder: Path, width: int = 640) -> dict[str, Any]:
    """A comparison as the page shows it."""
    asked, told = jobs.asked(folder), jobs.told(folder)
    if not asked:
        return {"job": name, "state": "waiting"}
    scores: dict[str, Table] = {key: value for key, value in told.get("scores", {}).items()}
    return {
        "job": name,
        **{
            key: told.get(key)
            for key in ("state", "done", "total", "doing", "error", "pictures", "size", "problems")
        },
        **{
            key: asked.get(key)
            for key in ("title", "labels", "sweep", "prompts", "seeds", "asked", "checkpoint")
        },
        "rows": [
            {
                "label": row["label"],
                "means": {reward: intervals(table[k]) for reward, table in scores.items()},
            }
            for k, row in enumerate(asked["rows"])
        ],
        "scores": scores,
        "answers": [answer(asked, reward, table) for reward, table in scores.items()],
        "charts": [_chart(asked, reward, table, width) for reward, table in scores.items()]
        if asked["sweep"]
        else [],
        "best": best(asked, scores),
        "sheet": (folder / "sheet.png").is_file(),
    }


def answer(asked: dict[str, Any], reward: str, table: Table) -> str:
    """Which row scores highest, and whether that is clear: a sentence that claims no more than was measured."""
    if asked["sweep"]:
        return _sweep_answer(asked, reward, table)
    found = Comparison.of(table[0], table[1])
    if not found:
        return f"{reward}: no scores."
    if found.pairs == 1:
        return f"{reward}: one pair tells nothing."
    if abs(found.difference) <= found.half_width:
        return f"{reward}: no clear difference ({found.change}, 95%, {found.pairs} pairs)."
    first, second = (row["label"] for row in asked["rows"])
    high, low = (second, first) if found.difference > 0 else (first, second)
    gap = f"{abs(found.difference):.3f} ± {found.half_width:.3f}"
    return f"{reward}: {high} scores higher than {low} by {gap} (95%, {found.pairs} pairs)."


def _sweep_answer(asked: dict[str, Any], reward: str, table: Table) -> str:
    top = _top(table)
    if top is None:
        return f"{reward}: no scores."
    near = [k for k in range(len(table)) if k != top and not _clearly(table[k], table[top])]
    others = ", ".join(asked["rows"][k]["label"] for k in near)
    text = f"{reward}: strength {asked['rows'][top]['label']} scores highest, {intervals(table[top])}"
    if len(near) == len(table) - 1:
        return f"{text}, but no strength is clearly different from it."
    return (
        f"{text}; not clearly higher than {others}." if near else f"{text}, clearly higher than every other."
    )


def _clearly(low: Sequence[float | None], high: Sequence[float | None]) -> bool:
    """Whether the 95% interval of the difference, pair by pair, is above 0; a single pair tells nothing."""
    found = Comparison.of(low, high)
    return bool(found) and found.pairs > 1 and found.difference > found.half_width


def _top(table: Table) -> int | None:
    means = {k: found[0] for k, row in enumerate(table) if (found := interval(row))}
    return max(means, key=lambda k: means[k]) if means else None


def best(asked: dict[str, Any], scores: dict[str, Table]) -> dict[str, Any] | None:
    """The strength that the first reward likes most, where it can be made the file's preferred weight."""
    if not (asked.get("lora") and scores):
        return None
    table = next(iter(scores.values()))
    top = _top(table)
    if top is None:
        return None
    clear = any(_clearly(row, table[top]) for row in table)
    return {"strength": asked["rows"][top]["strength"], "clear": clear, "file": Path(asked["lora"]).name}


def _chart(asked: dict[str, Any], reward: str, table: Table, width: int) -> str:
    found = [(row["strength"], interval(scores)) for row, scores in zip(asked["rows"], table, strict=True)]
    points = [(x, at[0], 0.0 if math.isnan(at[1]) else at[1]) for x, at in found if at]
    return strength_chart(f"{reward} by strength: mean with its 95% interval", points, width, 220)
