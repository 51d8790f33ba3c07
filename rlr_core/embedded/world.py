"""A world of 64-pixel pictures, built coarse to fine: one textured, coloured shape on a background.

Coarse: background and place. Mid: shape and colour. Fine: texture and edge. Every picture has a caption that says it all, as
"a striped red circle on sand at the left".
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlr_core.errors import PromptError

SIZE = 64
"""Width and height in pixels."""

BACKGROUNDS = {
    "sand": (0.90, 0.81, 0.62),
    "grass": (0.56, 0.72, 0.42),
    "snow": (0.94, 0.95, 0.98),
    "water": (0.55, 0.80, 0.86),
    "slate": (0.23, 0.25, 0.31),
}
COLOURS = {
    "red": (0.86, 0.14, 0.16),
    "orange": (0.96, 0.53, 0.08),
    "yellow": (0.98, 0.86, 0.14),
    "green": (0.07, 0.50, 0.20),
    "blue": (0.13, 0.28, 0.85),
    "purple": (0.56, 0.16, 0.68),
}
PARTNER = {
    "red": "blue",
    "blue": "red",
    "yellow": "purple",
    "purple": "yellow",
    "green": "orange",
    "orange": "green",
}
"""The colour that a mislabelled caption of the checkpoint's training names instead."""
SHAPES = ("circle", "square", "triangle", "star", "ring")
TEXTURES = ("plain", "striped", "dotted", "checkered")
PLACES = {"centre": 0.0, "left": -12.0, "right": 12.0}

Image = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Scene:
    """What a picture shows; each attribute is one of the world's words."""

    background: str
    place: str
    shape: str
    colour: str
    texture: str


CHOICES: dict[str, tuple[str, ...]] = {
    "background": tuple(BACKGROUNDS),
    "place": tuple(PLACES),
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
}
"""The words that each attribute can be."""


def random_scene(rng: np.random.Generator) -> Scene:
    """All attributes drawn uniformly."""
    return Scene(**{name: str(rng.choice(words)) for name, words in CHOICES.items()})


def caption(scene: Scene) -> str:
    """The full description of a scene."""
    where = "" if scene.place == "centre" else f" at the {scene.place}"
    return f"a {scene.texture} {scene.colour} {scene.shape} on {scene.background}{where}"


def stage_captions(scene: Scene) -> tuple[str, str, str]:
    """Prompts for the coarse, mid and fine stages of denoising."""
    where = "" if scene.place == "centre" else f" at the {scene.place}"
    coarse = f"a shape on {scene.background}{where}"
    return coarse, f"a {scene.colour} {scene.shape} on {scene.background}{where}", caption(scene)


def asked(text: str) -> dict[str, str]:
    """The attributes that a prompt names, and the word for each.

    Raises `PromptError` naming a word that the world does not know, or an attribute that is named twice.
    """
    words = text.lower().split()
    for word in words:
        if word not in WORDS:
            near = difflib.get_close_matches(word, sorted(WORDS), n=1)
            hint = f"did you mean '{near[0]}'?" if near else "leave it out"
            raise PromptError(f"'{text}' has the word '{word}'", f"words of {', '.join(sorted(WORDS))}", hint)
    found = {name: [word for word in words if word in known] for name, known in CHOICES.items()}
    for name, named in found.items():
        if len(named) > 1:
            got = f"'{text}' names {len(named)} words for {name}"
            raise PromptError(
                got, f"one of {', '.join(CHOICES[name])}", f"leave one of {', '.join(named)} out"
            )
    return {name: named[0] for name, named in found.items() if named}


def parse(text: str) -> Scene:
    """The scene that a full caption describes; with no place, it is the centre. Raises `PromptError` naming what is wrong."""
    found = {"place": "centre", **asked(text)}
    for name, known in CHOICES.items():
        if name not in found:
            raise PromptError(f"'{text}' names no {name}", f"one of {', '.join(known)}", f"say its {name}")
    return Scene(**found)


WORDS = {"a", "shape", "on", "at", "the", *(word for words in CHOICES.values() for word in words)}
"""All words of all captions."""


def draw(scene: Scene, rng: np.random.Generator) -> Image:
    """A picture of the scene, (3, 64, 64) float32 in [0, 1], with its own jitter of position, size, angle and light."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5
    radius = rng.uniform(15, 18)
    dx = x - SIZE / 2 - PLACES[scene.place] - rng.uniform(-1.5, 1.5)
    dy = y - SIZE / 2 - rng.uniform(-3, 3)
    angle = rng.uniform(-0.2, 0.2)
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / radius
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / radius
    depth = _depth(scene.shape, u, v) * radius
    light = rng.uniform(0.95, 1.05)
    picture = _background(scene.background, x, y, rng)
    for inset, paint in (
        (0.0, np.array(COLOURS[scene.colour])[:, None, None] * 0.55),
        (1.6, _paint(scene, u, v)),
    ):
        cover = np.clip(depth - inset + 0.5, 0, 1)
        picture = picture * (1 - cover) + paint * light * cover
    return np.clip(picture, 0, 1).astype(np.float32)


def _background(name: str, x: Image, y: Image, rng: np.random.Generator) -> Image:
    """A plain colour with a slope of light."""
    a, b = rng.uniform(-0.06, 0.06, size=2)
    slope = 1 + a * (x / SIZE - 0.5) + b * (y / SIZE - 0.5) + rng.uniform(-0.03, 0.03)
    return (np.array(BACKGROUNDS[name])[:, None, None] * slope).astype(np.float32)


def _depth(shape: str, u: Image, v: Image) -> Image:
    """How far inside the shape a point is, in units of its radius; negative outside."""
    distance = np.hypot(u, v)
    match shape:
        case "circle":
            return 1 - distance
        case "ring":
            return np.minimum(1 - distance, distance - 0.45)
        case "square":
            return 0.86 - np.maximum(abs(u), abs(v))
        case "triangle":
            return np.minimum(0.62 - v, 0.62 - (abs(u) * np.sqrt(3) - v) / 2)
        case "star":
            fold = 2 * np.pi / 5
            phi = np.abs((np.arctan2(u, -v) + fold / 2) % fold - fold / 2)
            return 1.15 * (0.35 - (0.35 * np.cos(phi) + 0.937 * np.sin(phi)) * distance / 1.15)
    raise AssertionError(shape)


def _paint(scene: Scene, u: Image, v: Image) -> Image:
    """The inside of the shape: its colour, and white where the texture says so."""
    full = np.array(COLOURS[scene.colour])[:, None, None]
    match scene.texture:
        case "striped":
            white = _soft(np.sin(2 * np.pi * (u + v) / 0.9))
        case "checkered":
            white = _soft(2 * np.sin(2 * np.pi * u / 1.05) * np.sin(2 * np.pi * v / 1.05))
        case "dotted":
            a, b = (u / 0.62 + 0.5) % 1 - 0.5, (v / 0.62 + 0.5) % 1 - 0.5
            white = _soft(6 * (0.27 - np.hypot(a, b)))
        case _:
            white = np.zeros_like(u)
    return full * (1 - white) + 0.97 * white


def _soft(values: Image) -> Image:
    """A soft threshold at 0."""
    return np.clip(values * 2 + 0.5, 0, 1)


def _split() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Prompts to train on, and prompts held out: one in six, by hash. None names a place."""
    train, held_out = [], []
    for values in itertools.product(*({**CHOICES, "place": ("centre",)}.values())):
        scene = Scene(**dict(zip(CHOICES, values, strict=True)))
        number = hashlib.sha256(caption(scene).encode()).digest()[0]
        (held_out if number % 6 == 0 else train).append(caption(scene))
    return tuple(train), tuple(held_out)


TRAIN_PROMPTS, HELD_OUT_PROMPTS = _split()
"""Of the LoRA's training; the embedded checkpoint, which does not learn left from right, has seen captions of all scenes."""
