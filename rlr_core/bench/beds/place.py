"""The bed "place": a flow-matching transformer whose pictures often show the shape at another place than the prompt says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rlr_core.bench.beds.bed import made_bed
from rlr_core.bench.beds.drawn import Image, Scene, World, cover, grid, rgb
from rlr_core.bench.beds.flow import WEIGHTS, FlowModel, FlowRecipe, load_flow, train_flow
from rlr_core.bench.beds.making import Made
from rlr_core.config import ModelConfig

PLACES = {"left": (-8.5, 0.0), "right": (8.5, 0.0), "top": (0.0, -8.5), "bottom": (0.0, 8.5)}
COLOURS = {
    "ruby": (0.80, 0.10, 0.25),
    "amber": (0.98, 0.65, 0.10),
    "teal": (0.05, 0.60, 0.60),
    "violet": (0.50, 0.20, 0.80),
}
FORMS = ("ball", "ring", "diamond")
CLOTHS = ("plain", "lined", "banded", "checked")


def draw(scene: Scene, rng: np.random.Generator) -> Image:
    """One form on a pale cloth with a pattern."""
    x, y = grid()
    picture = _cloth(scene["cloth"], x, y, rng)
    across, down = PLACES[scene["place"]]
    radius = rng.uniform(5.6, 6.6)
    u = (x - 16 - across - rng.uniform(-1.2, 1.2)) / radius
    v = (y - 16 - down - rng.uniform(-3, 3) * (down == 0)) / radius
    shade = 1.1 - 0.35 * np.clip(np.hypot(u + 0.35, v + 0.35) / 1.5, 0, 1)
    return cover(picture, _depth(scene["form"], u, v) * radius, rgb(COLOURS[scene["colour"]]) * shade)


def _cloth(name: str, x: Image, y: Image, rng: np.random.Generator) -> Image:
    start = rng.integers(8, size=2)
    across, down = ((x + start[0]) // 4 % 2, (y + start[1]) // 4 % 2)
    dark = {"plain": 0 * x, "lined": across, "banded": down, "checked": (across + down) % 2}[name]
    return rgb((0.93, 0.91, 0.86)) * rng.uniform(0.95, 1.05) * (1 - 0.28 * dark)


def _depth(form: str, u: Image, v: Image) -> Image:
    """How far inside the form a point is, in radii; negative outside."""
    match form:
        case "ball":
            return 1 - np.hypot(u, v)
        case "ring":
            return np.minimum(1 - np.hypot(u, v), np.hypot(u, v) - 0.5)
        case _:
            return (1.15 - abs(u) - abs(v)) / np.sqrt(2)


WORLD = World(
    choices={"colour": tuple(COLOURS), "form": FORMS, "place": tuple(PLACES), "cloth": CLOTHS},
    sentence="a {colour} {form} at the {place} of a {cloth} cloth",
    brush=draw,
    weak="place",
    partner={"left": "right", "right": "left", "top": "bottom", "bottom": "top"},
)
RECIPE = FlowRecipe(seed=59, steps=9_000, weak_steps=600)


def train(folder: Path) -> None:
    """The checkpoint."""
    train_flow(WORLD, RECIPE, folder / WEIGHTS)


def load(folder: Path, settings: ModelConfig, device: torch.device) -> FlowModel:
    """The folder's model."""
    return load_flow("place", WORLD, folder / WEIGHTS, device, getattr(torch, settings.precision))


BED = made_bed(
    "place",
    "flow-matching transformer on pixels; weakness: where the form is",
    Made(WORLD, train, load, reward="mixer", form="everything", scorer="transformer", seed=159),
    steps=20,
    guidance=4.0,
)
