"""A run's curves as a picture, drawn with what ComfyUI has: Pillow."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageColor, ImageDraw, ImageFont

from .snapshot import Points

SCALE = 2
"""Drawn so many times as large, and made smaller: lines become smooth."""
LEFT, RIGHT, TOP, BOTTOM = 64, 90, 44, 36
PAPER, INK, GRID = "#ffffff", "#222222", "#e2e2de"
COLOURS = ("#2454a6", "#b25a00")


def curve_picture(curves: Mapping[str, Points], width: int, height: int) -> Image.Image:
    """Name → points; bands are 95%. Pixels are those of the picture."""
    frame = _Frame({name: each for name, each in curves.items() if each}, width * SCALE, height * SCALE)
    frame.axes()
    for (name, each), colour in zip(frame.curves.items(), COLOURS, strict=False):
        frame.curve(each, colour)
        frame.legend(name, colour)
    return frame.sheet.resize((width, height), Image.Resampling.LANCZOS)


def told(value: float) -> str:
    """In four digits, large numbers whole."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e8 else f"{value:.4g}"


class _Frame:
    """Turns values into places on a sheet."""

    def __init__(self, curves: Mapping[str, Points], width: int, height: int):
        self.curves, self.sheet = curves, Image.new("RGB", (width, height), PAPER)
        self.draw, self.named = ImageDraw.Draw(self.sheet, "RGBA"), 0
        self.font = ImageFont.load_default(13 * SCALE)
        every = [point for each in curves.values() for point in each] or [(0.0, 0.0, 0.0)]
        low, high = min(y - band for _, y, band in every), max(y + band for _, y, band in every)
        room = (high - low) * 0.06 or 0.5
        self.low, self.high, self.end = low - room, high + room, max(x for x, _, _ in every) or 1

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point's place."""
        wide, tall = self.sheet.width - SCALE * (LEFT + RIGHT), self.sheet.height - SCALE * (TOP + BOTTOM)
        up = (y - self.low) / (self.high - self.low)
        return SCALE * LEFT + wide * x / self.end, self.sheet.height - SCALE * BOTTOM - tall * up

    def axes(self) -> None:
        """Four lines with their values, and the iterations."""
        for part in range(5):
            value = self.low + (self.high - self.low) * part / 4
            (left, y), right = self.at(0, value), self.at(self.end, value)[0]
            self.draw.line((left, y, right, y), GRID, SCALE)
            self.text((left - 8 * SCALE, y), told(value), INK, "rm")
        for x in (0, self.end):
            self.text((self.at(x, 0)[0], self.sheet.height - 14 * SCALE), f"{x:g}", INK, "mm")
        middle = (self.at(0, 0)[0] + self.at(self.end, 0)[0]) / 2
        self.text((middle, self.sheet.height - 14 * SCALE), "iterations", INK, "mm")

    def curve(self, points: Points, colour: str) -> None:
        """Its band, the line, and the last value."""
        red, green, blue = ImageColor.getrgb(colour)[:3]
        band = [self.at(x, y + b) for x, y, b in points] + [self.at(x, y - b) for x, y, b in points[::-1]]
        if len(points) > 1:
            self.draw.polygon(band, (red, green, blue, 48))
            self.draw.line([self.at(x, y) for x, y, _ in points], colour, 2 * SCALE, "curve")
        x, y = self.at(*points[-1][:2])
        self.draw.ellipse((x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE), colour)
        self.text((x + 10 * SCALE, y), told(points[-1][1]), colour, "lm")

    def legend(self, name: str, colour: str) -> None:
        """The next name above the curves."""
        left = SCALE * LEFT + self.named
        self.text((left, 20 * SCALE), name, colour, "lm")
        self.named += round(self.draw.textlength(name, self.font)) + 24 * SCALE

    def text(self, place: tuple[float, float], words: str, colour: str, anchor: str) -> None:
        """Words at a place."""
        self.draw.text(place, words, colour, self.font, anchor)
