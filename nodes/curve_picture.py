"""A run's curves as a picture, drawn with what ComfyUI has: Pillow.

Each curve has a frame of its own: a mix of rewards, its parts and a held-out score are on scales of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageColor, ImageDraw, ImageFont

from .snapshot import Points

SCALE = 2
"""Drawn so many times as large, and made smaller: lines become smooth."""
LEFT, RIGHT, TOP, BOTTOM = 64, 72, 40, 34
STACKED = 2
"""Curves that lie one above the other; more are in two columns."""
PAPER, INK, GRID = "#ffffff", "#222222", "#e2e2de"
COLOURS = ("#2454a6", "#b25a00", "#3f7a4d")
"""The last one is that of all curves beyond."""


def curve_picture(curves: Mapping[str, Points], width: int, height: int) -> Image.Image:
    """Name → points; bands are 95%. Pixels are those of the picture."""
    known = {name: each for name, each in curves.items() if each}
    columns = 1 if len(known) <= STACKED else 2
    rows = max(1, -(-len(known) // columns))
    wide, tall = width * SCALE // columns, height * SCALE // rows
    end = max((each[-1][0] for each in known.values()), default=0) or 1
    sheet = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    for number, (name, points) in enumerate(known.items()):
        frame = _Frame(points, end, wide, tall)
        frame.axes(name, colour := COLOURS[min(number, len(COLOURS) - 1)])
        frame.curve(colour)
        sheet.paste(frame.sheet, (number % columns * wide, number // columns * tall))
    return sheet.resize((width, height), Image.Resampling.LANCZOS)


def told(value: float) -> str:
    """In four digits, large numbers whole."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e8 else f"{value:.4g}"


class _Frame:
    """Turns values into places on a sheet."""

    def __init__(self, points: Points, end: float, width: int, height: int):
        self.points, self.sheet = points, Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self.sheet, "RGBA")
        self.font = ImageFont.load_default(13 * SCALE)
        low, high = min(y - band for _, y, band in points), max(y + band for _, y, band in points)
        room = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
        self.low, self.high, self.end = low - room, high + room, end

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point's place."""
        wide, tall = self.sheet.width - SCALE * (LEFT + RIGHT), self.sheet.height - SCALE * (TOP + BOTTOM)
        up = (y - self.low) / (self.high - self.low)
        return SCALE * LEFT + wide * x / self.end, self.sheet.height - SCALE * BOTTOM - tall * up

    def axes(self, name: str, colour: str) -> None:
        """The name, three lines with their values, and the iterations."""
        self.text((SCALE * 12, 18 * SCALE), name, colour, "lm")
        for part in range(3):
            value = self.low + (self.high - self.low) * part / 2
            (left, y), right = self.at(0, value), self.at(self.end, value)[0]
            self.draw.line((left, y, right, y), GRID, SCALE)
            self.text((left - 8 * SCALE, y), told(value), INK, "rm")
        below = self.sheet.height - 14 * SCALE
        for x in (0, self.end):
            self.text((self.at(x, 0)[0], below), f"{x:g}", INK, "mm")
        self.text(((self.at(0, 0)[0] + self.at(self.end, 0)[0]) / 2, below), "iterations", INK, "mm")

    def curve(self, colour: str) -> None:
        """The band, the line, and the last value."""
        red, green, blue = ImageColor.getrgb(colour)[:3]
        up = [self.at(x, y + band) for x, y, band in self.points]
        down = [self.at(x, y - band) for x, y, band in self.points[::-1]]
        if len(self.points) > 1:
            self.draw.polygon(up + down, (red, green, blue, 48))
            self.draw.line([self.at(x, y) for x, y, _ in self.points], colour, 2 * SCALE, "curve")
        x, y = self.at(*self.points[-1][:2])
        self.draw.ellipse((x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE), colour)
        self.text((x + 10 * SCALE, y), told(self.points[-1][1]), colour, "lm")

    def text(self, place: tuple[float, float], words: str, colour: str, anchor: str) -> None:
        """Words at a place."""
        self.draw.text(place, words, colour, self.font, anchor)
