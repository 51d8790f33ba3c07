"""Scores by strength as inline SVG: a dot for each mean, a whisker for its 95% interval, the highest one with its value."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ui.charts import nice

LEFT, RIGHT, TOP, BOTTOM = 52, 24, 26, 34
ROOM = 0.08
"""Of the range, left free above and below."""

Points = Sequence[tuple[float, float, float]]


def strength_chart(title: str, points: Points, width: int, height: int) -> str:
    """HTML of a figure. `points` are (strength, mean, half of its interval), rising in strength; "" for less than two."""
    if len(points) < 2:
        return ""
    low, high = (
        min(y - half for _, y, half in points),
        max(y + half for _, y, half in points),
    )
    room = (high - low) * ROOM or 0.5
    low, high = low - room, high + room
    first, last = points[0][0], points[-1][0]

    def x(value: float) -> float:
        return LEFT + 12 + (width - LEFT - RIGHT - 24) * (value - first) / (last - first)

    def y(value: float) -> float:
        return height - BOTTOM - (height - TOP - BOTTOM) * (value - low) / (high - low)

    across = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.3g}</text>'
        for tick in nice(low, high)
    )
    top = max(points, key=lambda point: point[1])
    drawn = "".join(_dot(x(s), y(mean), y(mean - half), y(mean + half)) for s, mean, half in points)
    below = "".join(
        f'<text x="{x(s):.1f}" y="{height - 14}" text-anchor="middle">{s:g}</text>' for s, _, _ in points
    )
    path = " ".join(f"{x(s):.1f},{y(mean):.1f}" for s, mean, _ in points)
    value = (
        f'<text class="value" x="{x(top[0]):.1f}" y="{y(top[1] + top[2]) - 8:.1f}" '
        f'text-anchor="middle">{top[1]:.3f}</text>'
    )
    told = "; ".join(f"{s:g}: {mean:.3f}" for s, mean, _ in points)
    return (
        f'<figure class="strength-chart"><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{html.escape(f"{title}: {told}", quote=True)}">{across}<polyline points="{path}"/>'
        f"{drawn}{value}{below}</svg></figure>"
    )


def _dot(x: float, y: float, bottom: float, top: float) -> str:
    whisker = f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:.1f}" y2="{top:.1f}"/>'
    return f'{whisker}<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
