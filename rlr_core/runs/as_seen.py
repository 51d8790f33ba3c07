"""A picture file's pixels as people see them: upright, in their own range, on white, in sRGB, the first of an animation."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
"""TIFF's BitsPerSample and PhotometricInterpretation (TIFF 6.0, section 8)."""
BAND = 64
"""Rows that are turned into 8 bits at a time."""
WIDE = ("I", "I;16", "I;16B", "I;16L")


def as_seen(picture: Image.Image) -> Image.Image:
    """The open picture in RGB. Raises `ValueError` for numbers whose range the file does not tell."""
    white, inverted = _white(picture), _is_inverted(picture)
    profile = picture.info.get("icc_profile")
    turned = _turned(picture)
    if turned.mode in WIDE:
        turned = _eight_bits(turned, white, inverted)
    return _in_srgb(_on_white(turned), profile)


def _turned(picture: Image.Image) -> Image.Image:
    """As the camera was held. EXIF that cannot be read turns nothing."""
    picture.load()
    with suppress(
        Exception
    ):  # broken EXIF makes Pillow stumble in any way, and the picture is as good without
        return ImageOps.exif_transpose(picture)
    return picture


def _white(picture: Image.Image) -> int:
    """The number that means white in greys of more than 8 bits, which Pillow itself cuts off at 255."""
    if picture.mode == "F" or (picture.mode == "I" and picture.format != "PPM"):
        raise ValueError(
            f"its pixels are numbers (Pillow's mode {picture.mode}) whose range it does not tell"
        )
    bits = _tag(picture, BITS)
    return 2 ** (bits[0] if bits else 16) - 1


def _is_inverted(picture: Image.Image) -> bool:
    """Pillow turns TIFFs where white is 0 itself, but not those of 16 bits."""
    return _tag(picture, PHOTOMETRIC) == WHITE_IS_ZERO


def _tag(picture: Image.Image, number: int) -> Any:
    """A TIFF's tag; None where it has none, and of other formats."""
    return getattr(picture, "tag_v2", {}).get(number)


def _eight_bits(picture: Image.Image, white: int, inverted: bool) -> Image.Image:
    """A grey picture, made in bands; with alpha where the file names one grey that is clear."""
    greys = (np.arange(white + 1) * 510 + white) // (2 * white)  # 255 · n / white, rounded
    table = (255 - greys if inverted else greys).astype(np.uint8)
    clear = picture.info.get("transparency")
    with_alpha = isinstance(clear, int)
    new = Image.new("LA" if with_alpha else "L", picture.size)
    for top in range(0, picture.height, BAND):
        numbers = np.asarray(picture.crop((0, top, picture.width, min(top + BAND, picture.height))))
        band = Image.fromarray(table[numbers.clip(0, white)])
        if with_alpha:
            band = Image.merge(
                "LA", (band, Image.fromarray(np.where(numbers == clear, 0, 255).astype(np.uint8)))
            )
        new.paste(band, (0, top))
    return new


def _on_white(picture: Image.Image) -> Image.Image:
    """What is clear shows a page's white, not the colour that happens to lie below it."""
    if not picture.has_transparency_data:
        return picture.convert("RGB") if picture.mode in ("P", "1") else picture
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """By the file's colour profile. One that is broken or for other channels is passed over, as browsers do."""
    if picture.mode == "LAB":  # which is a colour space by itself, that Pillow cannot convert
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        picture, profile = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB") or picture, None
    if profile:
        with suppress(OSError, ValueError, TypeError, ImageCms.PyCMSError):
            source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            changed = ImageCms.profileToProfile(picture, source, target, outputMode="RGB")
            if changed is not None:
                return changed
    return picture.convert("RGB")
