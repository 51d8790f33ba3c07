"""Strips and grids of pictures as PNG files, with captions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from rlr_core.errors import RLRError
from rlr_core.rewards import Pictures
from rlr_core.runs.as_seen import as_seen
from rlr_core.runs.captions import LINE, Lettering
from rlr_core.storage import write_atomically

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are read, as Pillow calls them; for some others it would run programs."""
MOST_PIXELS, MOST_BYTES = 2**25, 2**28
"""Of a picture that is read: 7680 × 4320 is within them. A few bytes may claim to be any number of pixels."""
SHOWN = 8
"""Pictures of the evaluation that the before/after grid shows."""
MARGIN, LABEL, PAPER, INK = 8, 64, "#ffffff", "#333333"


def to_picture(image: Tensor, side: int) -> Image.Image:
    """An image (3, H, W), range [0, 1], enlarged to a height of at least `side` pixels by a whole factor."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    factor = max(1, side // pixels.shape[0])
    return Image.fromarray(pixels).resize(
        (pixels.shape[1] * factor, pixels.shape[0] * factor), Image.Resampling.NEAREST
    )


def read_picture(path: Path) -> Tensor:
    """A picture file as people see it, (3, H, W), range [0, 1]. Raises `RLRError` with its name, before much memory is used."""
    with _naming(path), _opened(path) as picture:
        pixels = np.asarray(as_seen(picture))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255


def refuse_unreadable(path: Path) -> None:
    """Raise `RLRError` for what is no picture by its first bytes."""
    with _naming(path), _opened(path):
        pass


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Broken files make the decoders stumble in any way."""
    if not os.path.isfile(path):
        raise RLRError(f"{path} cannot be read (it is no file)", "a picture file", "check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise RLRError(
            f"{path} cannot be read ({reason})",
            f"a picture file: {', '.join(FORMATS)}",
            "choose another file",
        ) from None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture, whose pixels are not read yet."""
    if os.path.getsize(path) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    with Image.open(path, formats=FORMATS) as picture:
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"it has {width} × {height} pixels, and more than {MOST_PIXELS} are not read")
        yield picture


def save_png(picture: Image.Image, path: Path, texts: Mapping[str, str] | None = None) -> None:
    """Write a PNG atomically, with `texts` among its metadata."""
    info = PngInfo()
    for key, text in (texts or {}).items():
        info.add_text(key, text)
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG", pnginfo=info))


def strip(images: Pictures, side: int = 128) -> Image.Image:
    """Pictures side by side, in cells of the size of the largest."""
    tiles = [to_picture(image, side) for image in images]
    width, height = (max(tile.size[axis] for tile in tiles) for axis in (0, 1))
    sheet = Image.new("RGB", (len(tiles) * (width + MARGIN) - MARGIN, height), PAPER)
    for column, tile in enumerate(tiles):
        left, top = (width - tile.width) // 2, (height - tile.height) // 2
        sheet.paste(tile, (column * (width + MARGIN) + left, top))
    return sheet


def before_after(before: Image.Image, after: Image.Image, prompts: Sequence[str]) -> Image.Image:
    """Two strips of equal size, one above the other."""
    return grid({"before": before, "after": after}, prompts)


def grid(strips: Mapping[str, Image.Image], prompts: Sequence[str]) -> Image.Image:
    """Strips of equal size, one above the other, with their names on the left and the prompts below."""
    lettering = Lettering()
    label = max(LABEL, *(round(lettering.length(name)) + 2 * MARGIN for name in strips))
    width, tall = next(iter(strips.values())).size
    column, rows = (width + MARGIN) // len(prompts), len(strips) * (tall + MARGIN) + MARGIN
    captions = [lettering.wrapped(prompt, column - MARGIN) for prompt in prompts]
    height = rows + LINE * max(map(len, captions)) + MARGIN
    sheet = Image.new("RGB", (label + width + MARGIN, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (name, picture) in enumerate(strips.items()):
        top = MARGIN + row * (tall + MARGIN)
        sheet.paste(picture, (label, top))
        lettering.draw(draw, (MARGIN, top + tall // 2 - MARGIN), name, INK)
    for number, caption in enumerate(captions):
        for row, line in enumerate(caption):
            lettering.draw(draw, (label + number * column, rows + row * LINE), line, INK)
    return sheet


def tiles(sheet: Image.Image, count: int) -> list[Image.Image]:
    """The pictures of a `strip` of so many."""
    width = (sheet.width + MARGIN) // count
    lefts = (number * width for number in range(count))
    return [sheet.crop((left, 0, left + width - MARGIN, sheet.height)) for left in lefts]
