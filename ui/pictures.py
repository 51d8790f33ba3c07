"""A run's pictures for the page: single ones out of its strips, small, and none but those."""

from __future__ import annotations

import io
import re
from pathlib import Path

from PIL import Image

from rlr_core.errors import RunError

FILES = re.compile(r"previews/\d{1,18}\.png|before\.png|after\.png")
"""What may be asked for, below a run's folder."""
SIDES = (96, 256, 512, 1024)
"""Of a picture, at most, in pixels."""


def tile(folder: Path, name: str, number: int, count: int, side: int) -> bytes:
    """WebP of picture `number` of the `count` in a strip. Raises `RunError` for what is not there."""
    from rlr_core.runs.pictures import tiles

    if not FILES.fullmatch(name) or not 0 <= number < count <= 1000 or side not in SIDES:
        raise RunError(f"no picture {name[:60]!r}", "a preview of this run", "reload the page")
    try:
        with Image.open(folder / name) as sheet:
            picture = tiles(sheet.convert("RGB"), count)[number]
    except (OSError, ValueError) as error:
        raise RunError(
            f"{name} cannot be read: {error}", "a preview of this run", "reload the page"
        ) from None
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=90)
    return buffer.getvalue()
