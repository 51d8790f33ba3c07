"""Curves as inline SVG, made on the server: bands for what is uncertain, the last value at the line's end."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

POINTS = 240
"""Of a curve, at most: a run of any length draws as fast."""
LEFT, RIGHT, TOP, BOTTOM = 52, 64, 26, 30


@dataclass(frozen=True)
class Curve:
    """Points of one quantity.

    Attributes:
        name: as the legend calls it.
        kind: its class in the style sheet: "main", "second" or "faint".
        points: (x, value, half width of its band).
    """

    name: str
    kind: str
    points: Sequence[tuple[float, float, float]]
    dots: bool = False


def thinned(
    points: Sequence[tuple[float, float, float]], most: int = POINTS
) -> list[tuple[float, float, float]]:
    """At most so many points: means of neighbours, whose bands are those of a mean; first and last stay."""
    if len(points) <= most:
        return list(points)
    size = math.ceil((len(points) - 2) / (most - 2))
    middle = [points[k : k + size] for k in range(1, len(points) - 1, size)]
    means = [tuple(sum(part[axis] for part in group) / len(group) for axis in range(3)) for group in middle]
    return [points[0], *((x, y, band) for x, y, band in means), points[-1]]


def chart(
    title: str, curves: Sequence[Curve], width: int, height: int, end: float, marks: Sequence[float] = ()
) -> str:
    """SVG of curves over 0 … `end` iterations; `marks` are alarms."""
    curves = [Curve(each.name, each.kind, thinned(each.points), each.dots) for each in curves if each.points]
    if not curves:
        return ""
    frame = _Frame(width, height, end, *_range(curves))
    drawn = "".join(frame.line(each) for each in curves)
    alarms = "".join(frame.mark(x) for x in marks)
    data = json.dumps(
        {"curves": [[c.name, [(round(x, 2), round(y, 4)) for x, y, _ in c.points]] for c in curves]}
    )
    return (
        f'<figure class="chart" data-chart="{html.escape(data, quote=True)}" data-frame="{LEFT},{width - RIGHT},{end:g}">'
        f"<figcaption>{html.escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(_told(title, curves), quote=True)}">'
        f'{frame.axes()}{alarms}{drawn}<line class="cursor" x1="0" x2="0" y1="{TOP}" y2="{height - BOTTOM}"/></svg>'
        '<output class="readout"></output></figure>'
    )


def sparkline(values: Sequence[float], width: int = 60, height: int = 20) -> str:
    """A small curve for a list."""
    values = [y for _, y, _ in thinned([(k, y, 0.0) for k, y in enumerate(values)], 30)]
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    step = (width - 4) / (len(values) - 1)
    path = " ".join(
        f"{2 + k * step:.1f},{height - 2 - (y - low) / spread * (height - 4):.1f}"
        for k, y in enumerate(values)
    )
    return f'<svg class="spark" viewBox="0 0 {width} {height}" aria-hidden="true"><polyline points="{path}"/></svg>'


def _range(curves: Sequence[Curve]) -> tuple[float, float]:
    lows = [y - band for each in curves for _, y, band in each.points]
    highs = [y + band for each in curves for _, y, band in each.points]
    low, high = min(lows), max(highs)
    room = (high - low) * 0.06 or 0.5
    return low - room, high + room


def _told(title: str, curves: Sequence[Curve]) -> str:
    ends = "; ".join(f"{c.name} from {c.points[0][1]:.3f} to {c.points[-1][1]:.3f}" for c in curves)
    return f"{title}: {ends}"


@dataclass(frozen=True)
class _Frame:
    """Turns values into places."""

    width: int
    height: int
    end: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return LEFT + (self.width - LEFT - RIGHT) * value / max(self.end, 1)

    def y(self, value: float) -> float:
        return (
            self.height - BOTTOM - (self.height - TOP - BOTTOM) * (value - self.low) / (self.high - self.low)
        )

    def axes(self) -> str:
        ticks = nice(self.low, self.high)
        across = "".join(
            f'<line class="grid" x1="{LEFT}" x2="{self.width - RIGHT}" y1="{self.y(t):.1f}" y2="{self.y(t):.1f}"/>'
            f'<text x="{LEFT - 8}" y="{self.y(t) + 4:.1f}" text-anchor="end">{t:.3g}</text>'
            for t in ticks
        )
        below = self.height - 8
        ends = (
            f'<text x="{LEFT}" y="{below}">0</text>'
            f'<text x="{self.width - RIGHT}" y="{below}" text-anchor="end">{self.end:g} iterations</text>'
        )
        return across + ends

    def line(self, curve: Curve) -> str:
        up = [f"{self.x(x):.1f},{self.y(y + band):.1f}" for x, y, band in curve.points]
        down = [f"{self.x(x):.1f},{self.y(y - band):.1f}" for x, y, band in reversed(curve.points)]
        banded = any(band for _, _, band in curve.points)
        area = (
            f'<polygon class="band {curve.kind}" points="{" ".join(up + down)}"/>'
            if banded and len(up) > 1
            else ""
        )
        places = [(self.x(x), self.y(y)) for x, y, _ in curve.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dots = "".join(f'<circle class="{curve.kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places)
        whiskers = "".join(
            f'<line class="whisker {curve.kind}" x1="{self.x(x):.1f}" x2="{self.x(x):.1f}" '
            f'y1="{self.y(y - band):.1f}" y2="{self.y(y + band):.1f}"/>'
            for x, y, band in curve.points
            if band and (len(up) == 1)
        )
        x, y = places[-1]
        value = f'<text class="value {curve.kind}" x="{x + 8:.1f}" y="{y + 4:.1f}">{curve.points[-1][1]:.3f}</text>'
        shown = dots if curve.dots or len(places) == 1 else ""
        return f'{area}{whiskers}<polyline class="{curve.kind}" points="{path}"/>{shown}{value}'

    def mark(self, x: float) -> str:
        place = self.x(x)
        return (
            f'<line class="alarm" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{self.height - BOTTOM}"/>'
            f'<text class="alarm" x="{place:.1f}" y="{TOP - 6}" text-anchor="middle">alarm</text>'
        )


def nice(low: float, high: float) -> list[float]:
    """Two or three round numbers within a range."""
    spread = high - low
    step = 10 ** math.floor(math.log10(spread))
    for factor in (1, 0.5, 0.25, 0.2, 0.1):
        size = step * factor
        ticks = [size * k for k in range(math.ceil(low / size), math.floor(high / size) + 1)]
        if 2 <= len(ticks) <= 3:
            return ticks
        if len(ticks) > 3:
            return [ticks[0], ticks[len(ticks) // 2], ticks[-1]]
    return [low, high]
