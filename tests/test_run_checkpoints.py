"""A run's checkpoints: whatever became of a file, it holds what was written, or is passed over and said to be."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from PIL import Image
from safetensors.torch import save

from rlr_core.config import RunConfig, to_dict
from rlr_core.errors import RunError
from rlr_core.runs import checkpoints
from rlr_core.runs.checkpoints import MAGIC, VERSION, Checkpoint, Checkpoints, sealed

RUN = "0123456789abcdef"
MARK = MAGIC + b"%d " % VERSION
KINDS = 161


def checkpoint(iteration: int, run: str = RUN, **facts: Any) -> Checkpoint:
    """As a small run has it."""
    drawn = torch.Generator().manual_seed(iteration)
    state = {
        "iteration": iteration,
        "lora": {f"layer {k}": torch.randn(8, 32, generator=drawn) for k in range(4)},
        "watch": {"best_score": 0.25, "checks": [0, 2]},
    }
    return dataclasses.replace(Checkpoint(run, RunConfig(), 10 * iteration, state), **facts)


def written(made: Checkpoint) -> bytes:
    line, data = sealed(made)
    return line + bytes(data)


def resealed(values: Any) -> bytes:
    """What somebody wrote that way, with the checksum that belongs to it."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    data = buffer.getvalue()
    return MARK + b"%s\n" % checkpoints.hashlib.sha256(data).hexdigest().encode() + data


GOOD = written(checkpoint(4))
LINE = GOOD.index(b"\n") + 1
HOLDS = {**vars(checkpoint(4)), "config": to_dict(RunConfig())}


def others() -> dict[str, bytes]:
    """Files of another kind, and checkpoints that are whole, but not of this run, place or version."""
    picture, old, version = io.BytesIO(), io.BytesIO(), GOOD.replace(MARK, MAGIC + b"%d " % (VERSION + 1), 1)
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    torch.save({"events": 40, "trainer": checkpoint(4).trainer}, old)
    config = {**to_dict(RunConfig()), "sampler": {"steps": 3}}
    without = {f"without {name}": resealed({k: v for k, v in HOLDS.items() if k != name}) for name in HOLDS}
    return {
        "nothing": b"",
        "a line": MARK[:-1] + b"\n",
        "its line alone": GOOD[:LINE],
        "without its line": GOOD[LINE:],
        "text": b"no checkpoint\n",
        "a web page": b"<!doctype html><html></html>",
        "json": json.dumps({"trainer": {}}).encode(),
        "a picture": picture.getvalue(),
        "a LoRA": save({"a": torch.zeros(2)}),
        "of an earlier version": old.getvalue(),
        "of a later version": version,
        "of another run": written(checkpoint(4, "another")),
        "of another iteration": written(checkpoint(3)),
        "of settings that are not there": resealed({**HOLDS, "config": config}),
        "of a trainer that is none": resealed({**HOLDS, "trainer": [1, 2]}),
        "of a trainer without iteration": resealed({**HOLDS, "trainer": {}}),
        "of events that are no number": resealed({**HOLDS, "events": "40"}),
        "with more in it": resealed({**HOLDS, "more": 1}),
        "a list": resealed([1, 2, 3]),
        "an object": resealed(torch.nn.Linear(2, 2)),
        "no pickle": MARK + b"%s\nabc" % checkpoints.hashlib.sha256(b"abc").hexdigest().encode(),
        "twice": GOOD + GOOD,
        "a byte more": GOOD + b"\0",
        "a byte before": b"\0" + GOOD,
        "of Windows' line ends": GOOD.replace(b"\n", b"\r\n"),
        "in capitals": GOOD[:LINE].upper() + GOOD[LINE:],
        **without,
    }


def damages() -> Iterator[tuple[str, bytes]]:
    """Kinds of damage by name: cut off, blanked, exchanged, flipped bits, and other files."""
    yield from others().items()
    drawn, size = random.Random(0), len(GOOD)
    for k in range(20):
        yield f"cut off at {k}/20", GOOD[: size * k // 20 + drawn.randrange(50)]
    for _ in range(20):
        begin, length = drawn.randrange(size - 600), drawn.randrange(2, 512)
        blank = GOOD[:begin] + bytes(length) + GOOD[begin + length :]
        yield f"{length} zeros at {begin}", blank
    for _ in range(10):
        a, b = sorted(drawn.sample(range(0, size - 64, 64), 2))
        blocks = GOOD[:a] + GOOD[b : b + 64] + GOOD[a + 64 : b] + GOOD[a : a + 64] + GOOD[b + 64 :]
        yield f"blocks {a} and {b} exchanged", blocks
    places = [*range(0, LINE, 7), *(drawn.randrange(size) for _ in range(KINDS))]
    for place in places:
        flipped = bytearray(GOOD)
        flipped[place] ^= 1 << drawn.randrange(8)
        yield f"a flipped bit in byte {place}", bytes(flipped)


DAMAGES = dict([each for each in damages() if each[1] != GOOD][: KINDS - 4])
"""Beside those that are no bytes: see `NO_FILES`."""


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").touch()


NO_FILES: dict[str, Callable[[Path], None]] = {
    "a folder": a_folder,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a pipe": lambda path: os.mkfifo(path),
}


def folder_of(tmp_path: Path, *iterations: int) -> Checkpoints:
    folder = Checkpoints(tmp_path / "checkpoints")
    for iteration in iterations:
        folder.save(checkpoint(iteration), keep=9)
    return folder


def assert_passed_over(folder: Checkpoints, path: Path) -> None:
    """The older one is taken, unaltered; it stays when newer ones push old ones out, and the damaged one does not."""
    found = folder.newest(RUN)
    assert found.checkpoint and found.checkpoint.iteration == 2 and list(found.refused) == [path]
    runs.assert_same(vars(found.checkpoint), vars(checkpoint(2)))
    folder.set_aside(path)
    assert names(folder) == ["000002.pt", "000004.pt.refused"]
    folder.save(checkpoint(3), keep=2)
    assert names(folder) == ["000002.pt", "000003.pt", "000004.pt.refused"]


def names(folder: Checkpoints) -> list[str]:
    return sorted(path.name for path in folder.folder.iterdir())


def test_there_are_as_many_kinds_as_are_said():
    assert len(DAMAGES) + len(NO_FILES) == KINDS
    assert sum(name.startswith("a flipped bit") for name in DAMAGES) > 60


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_passed_over(name, tmp_path):
    folder = folder_of(tmp_path, 2)
    path = folder.folder / "000004.pt"
    path.write_bytes(DAMAGES[name])
    assert_passed_over(folder, path)


@pytest.mark.skipif(os.name == "nt", reason="no links and pipes")
@pytest.mark.parametrize("name", NO_FILES)
def test_what_is_no_file_is_passed_over(name, tmp_path):
    folder = folder_of(tmp_path, 2)
    path = folder.folder / "000004.pt"
    NO_FILES[name](path)
    assert_passed_over(folder, path)


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_alone_are_a_clear_error(name, tmp_path):
    """And are not taken for a run that has no checkpoint yet, which would begin anew."""
    folder = folder_of(tmp_path, 4)
    (folder.folder / "000004.pt").write_bytes(DAMAGES[name])
    before = names(folder)
    with pytest.raises(RunError, match=r"000004\.pt: .+(.|\n)*of this run(.|\n)*begin anew"):
        folder.newest(RUN)
    assert names(folder) == before, "nothing is touched"


def test_every_bit_of_the_first_line_counts(tmp_path):
    folder = folder_of(tmp_path, 4)
    path = folder.folder / "000004.pt"
    for bit in range(8 * LINE):
        flipped = bytearray(GOOD)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(RunError):
            folder.newest(RUN)
    path.write_bytes(GOOD)
    assert folder.newest(RUN).checkpoint


def test_torch_alone_would_load_altered_numbers():
    """Why there is a checksum: of the flipped bits many are loaded by torch without a word, some as other numbers."""
    altered = 0
    for name, data in DAMAGES.items():
        if name.startswith("a flipped bit"):
            try:
                loaded = torch.load(io.BytesIO(data[LINE:]), weights_only=True)
                runs.assert_same(loaded, HOLDS)
            except AssertionError:
                altered += 1
            except Exception:
                continue
    assert altered > 10


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("of an earlier version", "no checksum: an earlier version of RLR wrote it"),
        ("of a later version", f"format is {VERSION + 1}, that of this version of RLR is {VERSION}"),
        ("of another run", "of another run"),
        ("of another iteration", "of iteration 3, whatever its name says"),
        ("of settings that are not there", "another version of RLR wrote it: unknown key 'sampler'"),
        ("a byte more", "checksum does not match"),
        ("text", "no checkpoint of a run"),
    ],
)
def test_what_is_wrong_is_said(name, told, tmp_path):
    folder = folder_of(tmp_path, 2)
    (folder.folder / "000004.pt").write_bytes(DAMAGES[name])
    (reason,) = folder.newest(RUN).refused.values()
    assert told in reason


def test_a_disk_that_cannot_be_read(tmp_path, monkeypatch):
    folder, opened = folder_of(tmp_path, 2, 4), Path.open

    def fails(path: Path, *arguments: Any) -> Any:
        if path.name == "000004.pt":
            raise OSError(5, "Input/output error")
        return opened(path, *arguments)

    monkeypatch.setattr(Path, "open", fails)
    found = folder.newest(RUN)
    assert found.checkpoint and found.checkpoint.iteration == 2
    assert list(found.refused.values()) == ["it cannot be read: Input/output error"]


def test_what_is_kept_are_whole_ones(tmp_path):
    """A run is resumed again and again, and every time its newest checkpoint is damaged."""
    folder = folder_of(tmp_path)
    for iteration in range(1, 10):
        folder.save(checkpoint(iteration), keep=1)
        (folder.folder / f"{iteration + 20:06d}.pt").write_bytes(b"damaged")
        found = folder.newest(RUN)
        assert found.checkpoint and found.checkpoint.iteration == iteration
        for path in found.refused:
            folder.set_aside(path)
        (folder.folder / f"{iteration + 20:06d}.pt").write_bytes(b"again")
        folder.set_aside(folder.folder / f"{iteration + 20:06d}.pt")
        assert [name for name in names(folder) if name.endswith(".pt")] == [f"{iteration:06d}.pt"]
    assert sum(name.endswith(".refused-2") for name in names(folder)) == 9


def test_they_are_counted_as_numbers(tmp_path):
    folder = folder_of(tmp_path, 999_999, 1_000_000)
    found = folder.newest(RUN)
    assert found.checkpoint and found.checkpoint.iteration == 1_000_000
    folder.save(checkpoint(1_000_001), keep=2)
    assert names(folder) == ["1000000.pt", "1000001.pt"]


def test_a_folder_in_the_way_of_pruning_is_left(tmp_path):
    folder = folder_of(tmp_path, 2)
    a_folder(folder.folder / "000001.pt")
    folder.save(checkpoint(4), keep=1)
    assert names(folder) == ["000001.pt", "000004.pt"]


def test_no_file_is_no_checkpoint_yet(tmp_path):
    folder = Checkpoints(tmp_path / "checkpoints")
    assert not folder.exist and folder.newest(RUN).checkpoint is None
    folder.save(checkpoint(2), keep=1)
    assert folder.exist and folder.newest("").checkpoint, (
        "a run that has lost its identity takes what is there"
    )


def test_the_file_says_what_it_is():
    assert re.fullmatch(rb"RLR checkpoint [0-9]+ [0-9a-f]{64}", GOOD.split(b"\n")[0])
