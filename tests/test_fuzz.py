"""Whatever a file holds: an `RLRError` or an answer, within a moment, in bounded memory. About a minute of work in all.

Each test goes through a number of seeds; a failure names its seed. Headers of LoRA files have tests of their own.
"""

from __future__ import annotations

import io
import json
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

import runs
import tiny

from rlr_core.config import from_dict, load, to_dict, to_toml
from rlr_core.dcot import format_line, parse_line, plain
from rlr_core.dcot.writer import by_rules
from rlr_core.models import load_model
from rlr_core.models.describing import describe_checkpoint
from rlr_core.runs import log, runner
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.listing import list_runs
from rlr_core.runs.pictures import FORMATS, read_picture
from rlr_core.runs.summary import Summary
from rlr_core.trainer import painter
from rlr_core.trainer.prompts import held_out_prompts

NASTY = (
    b"[" * 5000, b"{a=" * 3000, b"a." * 5000, b"9" * 5000, b"1e" + b"9" * 400, b'"""', b"'''", b"\\u0000", b"\\ud800",
    b"\xef\xbb\xbf",
    b"\0", b"\x1b[31m", b"\r", b" = ", b"nan", b"-inf", b"1979-05-27", b"[[model]]", b"\xff\xfe", b"a" * 20_000,
    b"\n" * 1000, b"[a]\n",
)  # fmt: skip


def rounds(count: int, name: str, one: Callable[[random.Random], Any]) -> int:
    """Of so many seeds; returns how many were refused."""
    refused = 0
    for seed in range(count):
        generator = random.Random(f"{name} {seed}")
        try:
            refused += fuzz.answered(lambda generator=generator: one(generator)) is not None
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}: {type(error).__name__}: {error}") from error
    return refused


def with_something_nasty(data: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(len(data) + 1)
    return data[:place] + generator.choice(NASTY) + data[place:]


# configs and prompts


def test_config_files(tmp_path):
    whole, file = to_toml(load()).encode(), tmp_path / "run.toml"

    def one(generator: random.Random) -> None:
        damage = generator.choice((fuzz.damaged_bytes, with_something_nasty))
        file.write_bytes(damage(whole, generator))
        load(file)

    assert 100 < rounds(300, "config", one) < 300


def test_values_of_settings():
    whole = to_dict(load())
    assert (
        200
        < rounds(400, "values", lambda generator: to_toml(from_dict(fuzz.damaged_values(whole, generator))))
        < 400
    )


def test_overrides():
    names = [f"{section}.{key}" for section, table in to_dict(load()).items() for key in table]

    def one(generator: random.Random) -> None:
        value = generator.choice(
            (json.dumps(generator.choice(fuzz.STRANGE)), generator.choice(NASTY).decode("latin-1"))
        )
        load(overrides=[f"{generator.choice(names)}={value}"])

    assert 200 < rounds(400, "overrides", one) < 400


def test_prompts_files(tmp_path):
    whole, file = "a red circle\nein blauer Kreis, größer\n火の玉\n\n".encode() * 20, tmp_path / "prompts.txt"
    config = from_dict({"prompts": {"held_out_file": str(file)}}).prompts

    def one(generator: random.Random) -> None:
        damage = generator.choice((fuzz.damaged_bytes, with_something_nasty))
        file.write_bytes(damage(whole, generator))
        held_out_prompts(config)

    assert 50 < rounds(300, "prompts", one) < 300


STAGED = (
    "a park, wide shot, two red cats, (soft light:1.2) | negative: dark | times: 2",
    "coarse: a park | mid: two red cats | fine: fur, ünï | negative mid: dark | at: 0.2, 0.6 | prompt: cats",
)


def test_lines_of_stages_and_what_the_rules_make_of_them():
    """What was read is written, and read again as the same."""

    def one(generator: random.Random) -> None:
        damage = generator.choice((fuzz.damaged_bytes, with_something_nasty))
        line = damage(generator.choice(STAGED).encode(), generator).decode("utf-8", "replace")
        said = parse_line(line)
        assert parse_line(format_line(said)) == said
        if len(said.prompts) == 1:
            format_line(by_rules(said))

    assert 50 < rounds(400, "stages", one) < 400


# pictures


KINDS = [
    ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "P", {}), ("PNG", "1", {}), ("PNG", "I;16", {}), ("JPEG", "RGB", {}),
    ("JPEG", "RGB", {"progressive": True}), ("WEBP", "RGB", {}), ("WEBP", "RGB", {"lossless": True}), ("BMP", "RGB", {}),
    ("GIF", "P", {}), ("GIF", "P", {"save_all": True, "append_images": [Image.new("P", (40, 24))]}), ("TIFF", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "RGB", {"compression": "jpeg"}), ("TIFF", "CMYK", {}),
    ("TIFF", "1", {}), ("PPM", "RGB", {}), ("PPM", "L", {}),
]  # fmt: skip
"""Format, mode and options: the ways that decoders go by."""


def pictures() -> list[bytes]:
    assert {kind[0] for kind in KINDS} == set(FORMATS)
    written = [io.BytesIO() for _ in KINDS]
    for file, (name, mode, options) in zip(written, KINDS, strict=True):
        Image.effect_noise((40, 24), 60.0).convert(mode).save(file, name, **options)
    return [file.getvalue() for file in written]


def test_pictures(tmp_path):
    whole, file = pictures(), tmp_path / "picture"

    def one(generator: random.Random) -> None:
        data = generator.choice(whole)
        if generator.random() < 0.5:  # headers are where decoders stumble
            file.write_bytes(fuzz.damaged_bytes(data[:60], generator) + data[60:])
        else:
            file.write_bytes(fuzz.damaged_bytes(data, generator))
        assert read_picture(file).shape[0] == 3

    for data in whole:
        file.write_bytes(data)
        assert read_picture(file).shape == (3, 24, 40)
    assert 200 < rounds(1500, "picture", one) < 1500


def claiming(width: int, height: int) -> dict[str, bytes]:
    """Files of some bytes whose headers say that the picture is so large."""
    small = {kind[0]: data for kind, data in zip(KINDS, pictures(), strict=True)}
    size = struct.pack(">II", width, height)
    header = b"IHDR" + size + b"\x08\x02\0\0\0"
    png = small["PNG"][:12] + header + struct.pack(">I", zlib.crc32(header)) + small["PNG"][33:]
    gif = small["GIF"][:6] + struct.pack("<HH", width, height) + small["GIF"][10:]
    bmp = small["BMP"][:18] + struct.pack("<ii", width, height) + small["BMP"][26:]
    return {"PNG": png, "GIF": gif, "BMP": bmp, "PPM": b"P6 %d %d 255\n" % (width, height) + bytes(100)}


@pytest.mark.parametrize("name", ["PNG", "GIF", "BMP", "PPM"])
def test_a_picture_that_claims_to_be_enormous(name, tmp_path):
    (tmp_path / "picture").write_bytes(claiming(60_000, 60_000)[name])
    message = fuzz.answered(lambda: read_picture(tmp_path / "picture")) or ""
    assert "60000 × 60000 pixels" in message or "decompression bomb" in message


# logs


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    workshop = runs.workshop(tmp_path_factory.mktemp("workshop"))
    config = runs.config(workshop, training__iterations=3)
    runner.start(config, workshop / "runs" / "run", lambda event: None)
    return workshop / "runs" / "run"


def test_event_logs(run):
    file = run / "events.jsonl"
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)

    def one(generator: random.Random) -> None:
        if generator.random() < 0.5:
            changed, k = list(lines), generator.randrange(len(lines))
            changed[k] = json.dumps(fuzz.damaged_values(json.loads(lines[k]), generator)).encode() + b"\n"
            file.write_bytes(b"".join(changed))
        else:
            damage = generator.choice((fuzz.damaged_bytes, with_something_nasty))
            file.write_bytes(damage(whole, generator))
        for look in (log.ending, log.read, Summary.read):
            look(file)
        RunDirectory(run).state()
        assert len(list_runs(run.parent)) == 1

    rounds(300, "log", one)
    file.write_bytes(whole)


# checkpoints in diffusers' layout


@pytest.mark.parametrize(("build", "count"), [(tiny.build_checkpoint, 80), (tiny.build_sdxl, 20)])
def test_configs_of_a_folder(build, count, tmp_path):
    """Read, described, loaded, and painted with."""
    folder = build(tmp_path / "checkpoint")
    whole = {file: file.read_bytes() for file in sorted(folder.rglob("*.json"))}
    config = from_dict({"sampling": {"steps": 2}})

    def one(generator: random.Random) -> None:
        file = generator.choice(list(whole))
        for each, data in whole.items():
            each.write_bytes(data)
        if generator.random() < 0.8:
            file.write_text(
                json.dumps(fuzz.damaged_values(json.loads(whole[file]), generator)), encoding="utf-8"
            )
        else:
            file.write_bytes(fuzz.damaged_bytes(whole[file], generator))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            describe_checkpoint(folder)
            model = load_model(str(folder), device="cpu", dtype=torch.float32, clip_skip=1)
            model.lora_metadata()
            painter(model, config.sampling, config.inference)(plain(["a b"]), [0])

    assert rounds(count, "folder", one) < count
