"""The bed "count": an ε-predicting UNet whose pictures often show another number of dots than the prompt says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlr_core.bench.beds.bed import made_bed
from rlr_core.bench.beds.drawn import Image, Scene, World, cover, grid, rgb
from rlr_core.bench.beds.making import Made, load_pipeline
from rlr_core.bench.beds.pipeline import Recipe, train_pipeline

NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
COLOURS = {
    "red": (0.85, 0.12, 0.15),
    "green": (0.10, 0.60, 0.25),
    "blue": (0.15, 0.30, 0.90),
    "yellow": (0.97, 0.83, 0.10),
}
GROUNDS = {
    "white": (0.96, 0.96, 0.96),
    "black": (0.07, 0.07, 0.07),
    "sand": (0.80, 0.70, 0.50),
    "pink": (0.98, 0.72, 0.80),
}
CELLS = [(x, y) for x in (6.0, 16.0, 26.0) for y in (6.0, 16.0, 26.0)]
"""Where dots can be: far enough apart not to touch."""


def draw(scene: Scene, rng: np.random.Generator) -> Image:
    """So many dots of one colour, in cells of their own, on a plain ground with a slope of light."""
    x, y = grid()
    slope = rng.uniform(-0.06, 0.06, 2)
    picture = rgb(GROUNDS[scene["ground"]]) * (1 + slope[0] * (x / 32 - 0.5) + slope[1] * (y / 32 - 0.5))
    paint = rgb(COLOURS[scene["colour"]]) * rng.uniform(0.94, 1.06)
    for cell in rng.permutation(len(CELLS))[: NUMBERS[scene["number"]]]:
        middle = np.array(CELLS[cell]) + rng.uniform(-1, 1, 2)
        distance = np.hypot(x - middle[0], y - middle[1])
        picture = cover(picture, rng.uniform(3.2, 3.9) - distance, paint)
    return picture


WORLD = World(
    choices={"number": tuple(NUMBERS), "colour": tuple(COLOURS), "ground": tuple(GROUNDS)},
    sentence="{number} times a {colour} dot on {ground}",
    brush=draw,
    weak="number",
    partner={"one": "three", "three": "one", "two": "four", "four": "two"},
)
RECIPE = Recipe(
    seed=31,
    scheduler={"prediction_type": "epsilon", "set_alpha_to_one": False, "steps_offset": 1},
    unet={
        "block_out_channels": (48, 80),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
    },
)


def train(folder: Path) -> None:
    """The checkpoint."""
    train_pipeline(WORLD, RECIPE, folder)


BED = made_bed(
    "count",
    "ε-predicting UNet; weakness: how many dots",
    Made(WORLD, train, load_pipeline, reward="transformer", form="share", scorer="convolutional", seed=131),
    steps=20,
    guidance=6.0,
)
