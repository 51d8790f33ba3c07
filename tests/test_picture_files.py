"""Picture files are read as people see them: upright, in their own range, on white, in sRGB."""

from __future__ import annotations

import tracemalloc
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from rlr_core.cli.score import _inside
from rlr_core.errors import RLRError
from rlr_core.runs.as_seen import as_seen
from rlr_core.runs.pictures import read_picture, refuse_unreadable

RAMP = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
TURNS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, -1),
}
"""What a camera that was held so stores of the upright picture, by EXIF's number (its table of orientations)."""
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)

LAB = [((255, 128, 128), (1, 1, 1)), ((0, 128, 128), (0, 0, 0)), ((138, 209, 198), (1, 0, 0))]
"""L · 2.55, a + 128 and b + 128 → sRGB: white, black, and red, which is (54.29, 80.81, 69.89) under D50 (IEC 61966-2-1)."""


def seen(path: Path) -> np.ndarray:
    return read_picture(path).permute(1, 2, 0).numpy()


def turned(path: Path, number: int) -> np.ndarray:
    """Write a picture as stored under an orientation; returns it upright, (6, 4, 3)."""
    upright = np.arange(72, dtype=np.uint8).reshape(6, 4, 3) * 3
    exif = Image.Exif()
    exif[0x0112] = number
    Image.fromarray(np.ascontiguousarray(TURNS[number](upright))).save(path, exif=exif)
    return upright / 255


@pytest.mark.parametrize("number", TURNS)
@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_a_photo_is_upright(number, ending, tmp_path):
    upright = turned(path := tmp_path / f"photo.{ending}", number)
    np.testing.assert_allclose(seen(path), upright, atol=1e-6)


@pytest.mark.parametrize("number", TURNS)
@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_a_compressed_photo_is_upright(number, ending, tmp_path):
    """Its four quarters are white, red, green and blue, which compression leaves apart."""
    upright = np.zeros((64, 32, 3), np.uint8)
    upright[:32, :16], upright[:32, 16:], upright[32:, :16], upright[32:, 16:] = 255, RED, GREEN, BLUE
    exif = Image.Exif()
    exif[0x0112] = number
    Image.fromarray(np.ascontiguousarray(TURNS[number](upright))).save(
        path := tmp_path / f"a.{ending}", exif=exif, quality=95
    )
    found = seen(path)
    assert found.shape == upright.shape
    np.testing.assert_allclose(found[8::16, 4::8], upright[8::16, 4::8] / 255, atol=0.05)


def test_broken_exif_leaves_the_picture_as_it_is(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 2), "#ff0000").save(path, exif=b"Exif\0\0not TIFF at all")
    assert read_picture(path).shape == (3, 2, 4)


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_sixteen_bits_keep_their_range(ending, tmp_path):
    path = tmp_path / f"ramp.{ending}"
    if ending == "pgm":
        path.write_bytes(b"P5 16 16 65535\n" + RAMP.astype(">u2").tobytes())
    else:
        Image.fromarray(RAMP).save(path)
    np.testing.assert_allclose(seen(path)[..., 0], RAMP / 65535, atol=1 / 255)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
@pytest.mark.parametrize(("bits", "photometric"), [(16, 1), (12, 1), (16, 0)])
def test_every_grey_is_the_nearest_of_eight_bits(mode, bits, photometric):
    """By the rounding of exact fractions; what is above a white of 12 bits is white."""
    numbers = np.arange(65536)
    picture = Image.frombytes(
        mode, (256, 256), numbers.astype({"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode])
    )
    picture.format = "PPM"
    picture.tag_v2 = {258: (bits,), 262: photometric}  # pyright: ignore[reportAttributeAccessIssue]
    white = 2**bits - 1
    fractions = [Fraction(255 * min(number, white), white) for number in range(65536)]
    expected = np.array([round(fraction if photometric else 255 - fraction) for fraction in fractions])
    assert (np.asarray(as_seen(picture))[..., 0].ravel() == expected).all()


@pytest.mark.parametrize("clear", [None, 0])
def test_a_large_grey_of_sixteen_bits_takes_little_memory(clear):
    """Beside Pillow's own pictures, which are not counted here, less than a byte for each number."""
    picture = Image.new("I;16", (3000, 2000), 30_000)
    if clear is not None:
        picture.info["transparency"] = clear
    tracemalloc.start()
    try:
        found = as_seen(picture)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.getpixel((2999, 1999)) == (117, 117, 117)
    assert peak < 3000 * 2000


def test_sixteen_bits_where_white_is_zero(tmp_path):
    """TIFF's PhotometricInterpretation 0 (TIFF 6.0, section 4)."""
    Image.fromarray(RAMP).save(path := tmp_path / "ramp.tiff", tiffinfo={262: 0})
    np.testing.assert_allclose(seen(path)[..., 0], 1 - RAMP / 65535, atol=1 / 255)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_without_a_range_are_refused_by_name(mode, tmp_path):
    Image.new(mode, (4, 4), 1).save(path := tmp_path / "a.tiff")
    with pytest.raises(RLRError, match="range"):
        read_picture(path)


def transparent(path: Path, kind: str) -> None:
    """A picture that is red, and clear at its left half; below what is clear lies black."""
    picture = Image.new("RGBA", (4, 2), "#ff0000")
    picture.paste((0, 0, 0, 0), (0, 0, 2, 2))
    if kind == "palette":
        flat = Image.new("P", (4, 2), 1)
        flat.putpalette([0, 0, 0, 255, 0, 0])
        flat.paste(0, (0, 0, 2, 2))
        flat.save(path, transparency=0)
    elif kind == "colour":
        picture.convert("RGB").save(path, transparency=(0, 0, 0))
    else:
        picture.save(path)


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("alpha", "png"), ("alpha", "webp"), ("palette", "png"), ("palette", "gif"), ("colour", "png")],
)
def test_what_is_clear_is_white(kind, ending, tmp_path):
    transparent(path := tmp_path / f"a.{ending}", kind)
    np.testing.assert_allclose(seen(path)[:, :2], 1.0, atol=0.02)
    np.testing.assert_allclose(seen(path)[0, 3], [1.0, 0.0, 0.0], atol=0.02)


def test_half_clear_is_mixed_by_the_formula(tmp_path):
    Image.new("LA", (2, 2), (100, 51)).save(path := tmp_path / "a.png")
    np.testing.assert_allclose(seen(path), (100 * 0.2 + 255 * 0.8) / 255, atol=1 / 255)


def test_sixteen_bits_with_a_clear_grey(tmp_path):
    Image.fromarray(RAMP).save(path := tmp_path / "a.png", transparency=0)
    assert seen(path)[0, 0, 0] == 1.0 and seen(path)[0, 1, 0] < 0.01


def test_a_colour_profile_is_applied(tmp_path):
    """A grey of 128 in linear light is 0.5 to the 1/2.4 in sRGB (IEC 61966-2-1), not 0.5."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (2, 2), "#808080").save(same := tmp_path / "same.png", icc_profile=profile)
    np.testing.assert_allclose(seen(same), 128 / 255, atol=1.5 / 255)
    Image.new("RGB", (2, 2), "#808080").save(linear := tmp_path / "l.png", icc_profile=linearised(profile))
    expected = 1.055 * (128 / 255) ** (1 / 2.4) - 0.055
    np.testing.assert_allclose(seen(linear), expected, atol=2 / 255)


def test_a_cmyk_picture_has_the_colours_of_its_profile(tmp_path):
    """A press whose cyan ink is as white as paper; without the profile it is cyan."""
    Image.new("CMYK", (4, 4), (255, 0, 0, 0)).save(plain := tmp_path / "plain.tiff")
    np.testing.assert_allclose(seen(plain)[0, 0], [0.0, 1.0, 1.0], atol=0.02)
    for ending in ("tiff", "jpg"):
        path = tmp_path / f"a.{ending}"
        Image.new("CMYK", (4, 4), (255, 0, 0, 0)).save(path, icc_profile=press())
        np.testing.assert_allclose(seen(path)[0, 0], 1.0, atol=0.03)
        Image.new("CMYK", (4, 4), (0, 0, 0, 255)).save(path, icc_profile=press())
        np.testing.assert_allclose(seen(path)[0, 0], 0.0, atol=0.03)


def press() -> bytes:
    """An ICC profile (ICC.1:2001-04, 6.3.2 and 6.5.7) of a printer on which only black shows: CMYK → Lab by a table."""
    points = b"".join(
        bytes([0 if point & 1 else 255, 128, 128]) for point in range(16)
    )  # black varies fastest
    curve = bytes(range(256))
    matrix = b"".join((65536 * (k % 4 == 0)).to_bytes(4, "big") for k in range(9))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + curve * 4 + points + curve * 3
    table += bytes(-len(table) % 4)
    place = 128 + 4 + 12
    white = b"".join(int(value * 65536).to_bytes(4, "big") for value in (0.9642, 1.0, 0.8249))  # D50
    head = (place + len(table)).to_bytes(4, "big") + bytes(4) + b"\x02\x40\0\0" + b"prtrCMYKLab " + bytes(12)
    head += b"acsp" + bytes(28) + white + bytes(48)
    return (
        head
        + (1).to_bytes(4, "big")
        + b"A2B0"
        + place.to_bytes(4, "big")
        + len(table).to_bytes(4, "big")
        + table
    )


@pytest.mark.parametrize(("colour", "expected"), LAB)
def test_a_picture_in_lab_has_its_colours(colour, expected, tmp_path):
    Image.new("LAB", (4, 4), colour).save(path := tmp_path / "a.tiff")
    np.testing.assert_allclose(seen(path)[0, 0], expected, atol=0.02)


def linearised(profile: bytes) -> bytes:
    """The profile with curves of gamma 1: `curv` of no points is the identity (ICC.1, 10.6)."""
    data, count = bytearray(profile), int.from_bytes(profile[128:132], "big")
    for entry in range(132, 132 + 12 * count, 12):
        if data[entry : entry + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            at = int.from_bytes(data[entry + 4 : entry + 8], "big")
            data[at : at + 12] = b"curv" + bytes(8)
            data[entry + 8 : entry + 12] = (12).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_a_profile_that_is_broken_or_of_other_colours_changes_nothing(mode, tmp_path):
    picture = Image.new(mode, (8, 8), 0 if mode == "L" else tuple([0] * len(mode)))
    picture.save(path := tmp_path / "a.tiff", icc_profile=b"no profile")
    np.testing.assert_allclose(seen(path), 1.0 if mode == "CMYK" else 0.0, atol=2 / 255)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_an_animation_is_its_first_picture(ending, tmp_path):
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("#ff0000", "#0000ff"))
    first.save(path := tmp_path / f"a.{ending}", save_all=True, append_images=[second])
    np.testing.assert_allclose(seen(path)[0, 0], [1.0, 0.0, 0.0], atol=0.03)


def test_plain_pictures_stay_to_the_bit(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path := tmp_path / "a.png")
    assert torch.equal(read_picture(path), torch.from_numpy(pixels).permute(2, 0, 1) / 255)


def test_a_huge_picture_is_refused_by_its_size(tmp_path):
    """400 million pixels, of which only the header is there."""
    Image.new("1", (1, 1)).save(path := tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    for reader in (read_picture, refuse_unreadable):
        with pytest.raises(RLRError, match="pixels"):
            reader(path)


def test_hidden_files_of_a_folder_are_passed_over(tmp_path):
    for name in ("A.PNG", "._A.PNG", ".thumb.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in _inside(tmp_path)] == ["A.PNG"]
