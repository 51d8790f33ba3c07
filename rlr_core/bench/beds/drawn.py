"""Drawn worlds of 32-pixel pictures: attributes with words for each, a sentence that names them all, and a brush."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlr_core.errors import PromptError

SIZE = 32
"""Width and height in pixels."""

Image = NDArray[np.floating[Any]]
Scene = Mapping[str, str]
"""Attribute → its word."""
Brush = Callable[[Scene, np.random.Generator], Image]
"""A picture of the scene, (3, 32, 32) in about [0, 1], with its own jitter."""


@dataclass(frozen=True)
class World:
    """What pictures there are, and what is said of them.

    Attributes:
        choices: the words that each attribute can be; no word is of two attributes.
        sentence: a format that names all attributes.
        brush: draws a scene.
        weak: the attribute that a checkpoint learns wrong.
        partner: word → the word of that attribute which a mislabelled caption names instead.
    """

    choices: Mapping[str, tuple[str, ...]]
    sentence: str
    brush: Brush
    weak: str
    partner: Mapping[str, str]

    @property
    def words(self) -> tuple[str, ...]:
        """All words of all captions, sorted."""
        return tuple(sorted({word for caption in self.captions for word in caption.split()}))

    @property
    def captions(self) -> tuple[str, ...]:
        """Of all scenes."""
        scenes = itertools.product(*self.choices.values())
        return tuple(self.caption(dict(zip(self.choices, words, strict=True))) for words in scenes)

    def caption(self, scene: Scene) -> str:
        """The full description."""
        return self.sentence.format(**scene)

    def mistaken(self, scene: Scene) -> Scene:
        """The scene that a mislabelled caption describes."""
        return {**scene, self.weak: self.partner[scene[self.weak]]}

    def random_scene(self, rng: np.random.Generator) -> Scene:
        """All attributes drawn uniformly."""
        return {name: str(rng.choice(words)) for name, words in self.choices.items()}

    def draw(self, scene: Scene, rng: np.random.Generator) -> Image:
        """(3, 32, 32) float32 in [0, 1]."""
        return np.clip(self.brush(scene, rng), 0, 1).astype(np.float32)

    def asked(self, text: str) -> dict[str, str]:
        """The attributes that a prompt names, and the word for each. Raises `PromptError` where it names none."""
        words = set(text.lower().split())
        found = {name: word for name, known in self.choices.items() for word in known if word in words}
        if not found:
            expected = f"words of {', '.join(self.words)}"
            raise PromptError(f"'{text}', which asks for nothing in this world", expected, "name one of them")
        return found

    def prompts(self) -> tuple[list[str], list[str]]:
        """Captions to train on, and captions held out: one in six, by hash."""
        held_out = [caption for caption in self.captions if _digest(caption) % 6 == 0]
        return [caption for caption in self.captions if caption not in held_out], held_out


def _digest(text: str) -> int:
    return hashlib.sha256(text.encode()).digest()[0]


def grid() -> tuple[Image, Image]:
    """x and y of the pixels' centres, (32, 32) each."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5
    return x, y


def rgb(colour: tuple[float, float, float]) -> Image:
    """(3, 1, 1)."""
    return np.array(colour, dtype=np.float32)[:, None, None]


def cover(picture: Image, depth: Image, paint: Image) -> Image:
    """`paint` (3, 1, 1) or (3, 32, 32) over the pixels that are inside by a `depth` (32, 32) in pixels, with a soft edge."""
    share = np.clip(depth + 0.5, 0, 1)
    return picture * (1 - share) + paint * share
