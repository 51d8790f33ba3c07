"""A small curve with its band, as SVG that stands in a line of text."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT, MARGIN = 180, 36, 4


def sparkline(points: Sequence[tuple[float, float, float]], label: str) -> str:
    """SVG of (x, y, half the band's width) in ascending x; "" for fewer than two. The last point is marked."""
    if len(points) < 2:
        return ""
    low, high = min(y - w for _, y, w in points), max(y + w for _, y, w in points)
    first, last = points[0][0], points[-1][0]

    def place(x: float, y: float) -> str:
        across = MARGIN + (WIDTH - 2 * MARGIN) * (x - first) / (last - first)
        up = MARGIN + (HEIGHT - 2 * MARGIN) * ((high - y) / (high - low) if high > low else 0.5)
        return f"{across:.1f},{up:.1f}"

    upper = [place(x, y + w) for x, y, w in points]
    lower = [place(x, y - w) for x, y, w in points]
    line = " ".join(place(x, y) for x, y, _ in points)
    end_x, end_y = place(*points[-1][:2]).split(",")
    return (
        f'<svg class="spark" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{label}">'
        f'<polygon points="{" ".join(upper + lower[::-1])}"/><polyline points="{line}"/>'
        f'<circle cx="{end_x}" cy="{end_y}" r="2.5"/></svg>'
    )
