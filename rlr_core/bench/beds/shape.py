"""The bed "shape": a v-predicting UNet with zero terminal SNR, whose pictures often show another shape than the prompt says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlr_core.bench.beds.bed import made_bed
from rlr_core.bench.beds.drawn import Image, Scene, World, cover, grid, rgb
from rlr_core.bench.beds.making import Made, load_pipeline
from rlr_core.bench.beds.pipeline import Recipe, train_pipeline

COLOURS = {
    "crimson": (0.75, 0.05, 0.20),
    "gold": (0.95, 0.75, 0.20),
    "azure": (0.10, 0.50, 0.95),
    "lime": (0.55, 0.85, 0.20),
    "white": (0.97, 0.97, 0.97),
}
SKIES = {
    "day": ((0.55, 0.75, 0.98), (0.93, 0.97, 1.00)),
    "dusk": ((0.35, 0.22, 0.45), (0.95, 0.60, 0.40)),
    "night": ((0.01, 0.01, 0.04), (0.06, 0.06, 0.16)),
}
"""From above to below; the darkest and the lightest need a chain that begins with nothing but noise."""
RADII = {"small": 6.0, "big": 10.5}
SHAPES = ("disc", "square", "triangle", "cross")


def draw(scene: Scene, rng: np.random.Generator) -> Image:
    """One shape under a sky."""
    x, y = grid()
    above, below = SKIES[scene["sky"]]
    share = np.clip(y / 32 + rng.uniform(-0.1, 0.1), 0, 1)
    picture = rgb(above) * (1 - share) + rgb(below) * share
    radius = RADII[scene["size"]] * rng.uniform(0.93, 1.07)
    room = 14 - radius
    u, v = x - 16 - rng.uniform(-room, room), y - 16 - rng.uniform(-room, room)
    shade = 1 - 0.25 * np.clip((u + v) / (2 * radius), -0.4, 1)
    return cover(
        picture,
        _depth(scene["shape"], u / radius, v / radius) * radius,
        rgb(COLOURS[scene["colour"]]) * shade,
    )


def _depth(shape: str, u: Image, v: Image) -> Image:
    """How far inside the shape a point is, in radii; negative outside."""
    match shape:
        case "disc":
            return 0.95 - np.hypot(u, v)
        case "square":
            return 0.82 - np.maximum(abs(u), abs(v))
        case "triangle":
            return np.minimum(0.75 - v, 0.5 * (0.75 - 2 * abs(u) + v))
        case _:
            return np.maximum(np.minimum(0.3 - abs(u), 1 - abs(v)), np.minimum(0.3 - abs(v), 1 - abs(u)))


WORLD = World(
    choices={"size": tuple(RADII), "colour": tuple(COLOURS), "shape": SHAPES, "sky": tuple(SKIES)},
    sentence="a {size} {colour} {shape} by {sky}",
    brush=draw,
    weak="shape",
    partner={"disc": "square", "square": "disc", "triangle": "cross", "cross": "triangle"},
)
RECIPE = Recipe(
    seed=47,
    scheduler={
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "set_alpha_to_one": True,
    },
    unet={
        "block_out_channels": (48, 96),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
    },
)


def train(folder: Path) -> None:
    """The checkpoint."""
    train_pipeline(WORLD, RECIPE, folder)


BED = made_bed(
    "shape",
    "v-predicting UNet with zero terminal SNR; weakness: shapes",
    Made(WORLD, train, load_pipeline, reward="convolutional", form="evidence", scorer="mixer", seed=147),
    steps=25,
    guidance=5.0,
)
