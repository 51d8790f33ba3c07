"""What the graphics cards say of themselves, by NVIDIA's own tool: torch would keep some of their memory from then on."""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

QUERY = "name,memory.used,memory.total,temperature.gpu,power.draw"
PERIOD = 3.0
"""Seconds for which a reading is taken for new, whoever asks."""
PATIENCE = 5.0


@dataclass(frozen=True)
class Card:
    """A reading; None where the card does not tell.

    Attributes:
        used, total: memory in MiB.
        temperature: in °C.
        power: in W.
    """

    name: str
    used: float | None
    total: float | None
    temperature: float | None
    power: float | None

    def __str__(self) -> str:
        told = [
            f"{self.used / 1024:.1f} of {self.total / 1024:.1f} GB"
            if self.used is not None and self.total
            else "",
            f"{self.temperature:.0f} °C" if self.temperature is not None else "",
            f"{self.power:.0f} W" if self.power is not None else "",
        ]
        return ", ".join(filter(None, [self.name, *told]))


class Cards:
    """The cards, asked at most every few seconds."""

    def __init__(self) -> None:
        self._lock, self._read, self._known = Lock(), float("-inf"), list[Card]()

    def now(self) -> list[Card]:
        """The last reading; [] without NVIDIA's tool, or where it does not answer."""
        with self._lock:
            if time.monotonic() - self._read > PERIOD:
                self._known = read()
                self._read = time.monotonic()
            return self._known


def read() -> list[Card]:
    """Ask the cards."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return []
    query = [tool, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(query, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
        return [_card(line) for line in told.splitlines() if line.count(",") >= QUERY.count(",")]
    return []


def _card(line: str) -> Card:
    name, *numbers = line.rsplit(",", QUERY.count(","))
    return Card(name.strip(), *map(_number, numbers))


def _number(text: str) -> float | None:
    """None for "[N/A]" and its like."""
    try:
        return float(text)
    except ValueError:
        return None


def installed() -> str:
    """The cards' names and memory, for people."""
    told = [f"{card.name}, {card.total / 1024:.0f} GB" for card in read() if card.total]
    if told:
        return "; ".join(told)
    apple = platform.machine() == "arm64" and platform.system() == "Darwin"
    return "Apple's, through Metal" if apple else "none found: the processor computes"
