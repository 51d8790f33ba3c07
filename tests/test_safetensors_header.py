"""Safetensors headers: what is true is read, and whatever is not is refused in under a second and in bounded memory."""

from __future__ import annotations

import json
import random
import re
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rlr_core.errors import CheckpointError
from rlr_core.safetensors_header import LONGEST, LONGEST_FRAME, TensorInfo, read_header, shown


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    """A file with `header` (JSON, or the very bytes), saying that it is `length` long."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str = "F32", shape: object = (1,), place: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": place}


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "a file – Größe.safetensors"


def test_a_header_says_what_the_file_holds(file):
    tensors = {
        "a.weight": torch.zeros(2, 3, dtype=torch.float16),
        "ünicode 名": torch.zeros(4, dtype=torch.bfloat16),
        "eight": torch.zeros(5, dtype=torch.float8_e4m3fn),
        "empty": torch.zeros(0, 7),
        "number": torch.tensor(1, dtype=torch.int64),
    }
    save_file(tensors, file, metadata={"title": "Größe"})
    header = read_header(file)
    assert header.metadata == {"title": "Größe"}
    assert header.tensors["a.weight"] == TensorInfo("F16", (2, 3))
    assert {name: info.shape for name, info in header.tensors.items()} == {
        name: tuple(value.shape) for name, value in tensors.items()
    }
    assert header.tensors["eight"].dtype == "F8_E4M3" and header.tensors["number"].shape == ()


HOSTILE = {
    "empty header": (b"", None, 0, "no JSON object"),
    "100 GB": ({}, 100 * 10**9, 0, "header should have 100000000000"),
    "beyond 64 bits": ({}, 2**64 - 1, 0, "header should have"),
    "no JSON": (b"{,}", None, 0, "no JSON"),
    "no UTF-8": (b'{"\xff":1}', None, 0, "no JSON"),
    "a list": (b"[]", None, 0, "no JSON object"),
    "deep": (b'{"a":' * 50_000, None, 0, "no JSON"),
    "deep lists": (b'{"a":' + b"[" * 50_000, None, 0, "no JSON"),
    "NaN": (b'{"a":NaN}', None, 0, "'a' is no tensor"),
    "many digits": (b'{"a":' + b"9" * 1_000_000 + b"}", None, 0, "beyond 64 bits"),
    "twice": (b'{"a":1,"b":2,"a":1}', None, 0, "names 'a' twice"),
    "twice inside": (b'{"a":{"dtype":"F32","dtype":"F16"}}', None, 0, "names 'dtype' twice"),
    "half a pair": (b'{"__metadata__":{"a":"\\ud800"}}', None, 0, "no JSON"),
    "metadata a list": ({"__metadata__": []}, None, 0, "metadata are no texts"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, None, 0, "metadata are no texts"),
    "a key too many": ({"a": {**entry(), "b": 1}}, None, 4, "'a' is no tensor"),
    "unknown type": ({"a": entry("F32\x1b[31m")}, None, 4, "unknown type 'F32\\u001b["),
    "type is a list": ({"a": {**entry(), "dtype": []}}, None, 4, "unknown type"),
    "negative": ({"a": entry(shape=(-1,))}, None, 4, "impossible shape"),
    "true": ({"a": entry(shape=(True,))}, None, 4, "impossible shape"),
    "half": ({"a": entry(shape=(1.0,))}, None, 4, "impossible shape"),
    "no shape": ({"a": entry(shape=None)}, None, 4, "impossible shape"),
    "many dimensions": ({"a": entry(shape=[1] * 100_000)}, None, 4, "impossible shape"),
    "one offset": ({"a": entry(place=(0,))}, None, 4, "impossible shape"),
    "backwards": ({"a": entry(place=(4, 0))}, None, 4, "size of its shape"),
    "too small": ({"a": entry(shape=(2,))}, None, 4, "size of its shape"),
    "huge": ({"a": entry(shape=(2**60, 2**60))}, None, 4, "size of its shape"),
    "out of range": ({"a": entry(place=(4, 8))}, None, 4, "does not begin where"),
    "overlapping": ({"a": entry(), "b": entry()}, None, 8, "does not begin where"),
    "hole": ({"a": entry(), "b": entry(place=(8, 12))}, None, 12, "does not begin where"),
    "cut off": ({"a": entry(), "b": entry(place=(4, 8))}, None, 7, "should have 8 bytes, and 7 are there"),
    "too long": ({"a": entry()}, None, 5, "should have 4 bytes, and 5 are there"),
    "long name": ({"n" * 1_000_000: 1}, None, 0, "nnn…' is no tensor"),
    "many tensors": ({str(k): entry(place=(4 * k, 4 * k + 4)) for k in range(30_000)}, None, 0, "more than 20000 tensors"),
    "GGUF": (b"", int.from_bytes(b"GGUF\3\0\0\0", "little"), 0, "GGUF"),
    "zip": (b"", int.from_bytes(b"PK\3\4\0\0\0\0", "little"), 0, "pickled file"),
    "pickle": (b"", int.from_bytes(b"\x80\2\x8a\n\0\0\0\0", "little"), 0, "pickled file"),
    "LFS": (b"https://git-lfs", int.from_bytes(b"version ", "little"), 0, "Git LFS pointer"),
    "HTML": (b"html>", int.from_bytes(b"<!DOCTYP", "little"), 0, "web page"),
}  # fmt: skip
"""Name → header, its stated length, bytes of tensors, what the error says."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused_at_once(file, name):
    header, length, size, message = HOSTILE[name]
    write(file, header, bytes(size), length)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        read_header(file)
    assert seconds(file) < 1
    assert str(file) in str(caught.value) and len(str(caught.value)) < 600


def test_a_header_of_ten_thousand_tensors_is_read_at_once(file):
    header = {f"layer.{k}.weight": entry(place=(4 * k, 4 * k + 4)) for k in range(10_000)}
    write(file, header, bytes(40_000))
    assert len(read_header(file).tensors) == 10_000
    assert seconds(file) < 1


FILLINGS = {
    "numbers": (b'{"a":[', b"1,", b"1]}"),
    "names": (b"{", b'"a":1,', b'"a":1}'),
    "lists": (b'{"a":[', b"[],", b"1]}"),
    "objects": (b'{"a":[', b'{"a":1},', b"1]}"),
    "escapes": (b'{"a":"', b"\\u00e9", b'"}'),
    "spaces": (b"{", b" ", b"}"),
}


@pytest.mark.parametrize("name", FILLINGS)
def test_the_longest_frame_costs_bounded_time_and_memory(file, name):
    first, filling, last = FILLINGS[name]
    count = (LONGEST_FRAME - len(first) - len(last)) // len(filling)
    write(file, first + filling * count + last)
    assert is_refused(file) == (name != "spaces")
    assert seconds(file) < 1
    assert peak_memory(file) < 100 * 2**20


def test_texts_may_be_longer_than_all_else(file):
    """Of a data set whose tags make 5 MB (sd-scripts' `ss_tag_frequency`); safetensors itself reads it."""
    tags = json.dumps({"images": {f'{"a very long tag " * 12}"[{k}]" \\': k for k in range(25_000)}})
    write(file, {"__metadata__": {"ss_tag_frequency": tags}, "a": entry()}, bytes(4))
    with safe_open(file, "pt") as theirs:
        assert theirs.metadata() == read_header(file).metadata == {"ss_tag_frequency": tags}
    assert len(tags) > 4_800_000 and seconds(file) < 1


def test_the_longest_header_of_texts_is_read(file):
    """As long as safetensors itself reads."""
    rest = len(json.dumps({"__metadata__": {"tags": ""}, "a": entry()}))
    write(file, {"__metadata__": {"tags": "t" * (LONGEST - rest)}, "a": entry()}, bytes(4))
    with safe_open(file, "pt") as theirs:
        assert list(theirs.keys()) == list(read_header(file).tensors) == ["a"]
    assert seconds(file) < 3 and peak_memory(file) < 5 * LONGEST


@pytest.mark.parametrize("filling", [b"1,", b'"a":1,', b" "], ids=["numbers", "names", "spaces"])
def test_nothing_but_texts_may_be_as_long(file, filling):
    write(file, b'{"a":' + filling * (20_000_000 // len(filling)) + b"1}")
    assert is_refused(file) and seconds(file) < 1 and peak_memory(file) < 200 * 2**20


def is_refused(file: Path) -> bool:
    try:
        read_header(file)
    except CheckpointError:
        return True
    return False


def seconds(file: Path) -> float:
    """Of processor time: the best of three attempts, since the machine may be busy."""
    attempts = []
    for _ in range(3):
        began = time.process_time()
        is_refused(file)
        attempts.append(time.process_time() - began)
    return min(attempts)


def peak_memory(file: Path) -> int:
    """Bytes that Python allocated at most while reading."""
    tracemalloc.start()
    is_refused(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_header_beyond_the_limit_is_not_read(file):
    write(file, b"{", length=LONGEST + 1)
    with file.open("rb+") as sparse:
        sparse.truncate(LONGEST + 100)
    with pytest.raises(CheckpointError, match=f"more than {LONGEST} are not read"):
        read_header(file)


@pytest.mark.skipif(sys.platform == "win32", reason="files are not sparse by themselves there")
def test_a_length_of_many_gigabytes_is_not_believed(file):
    """A sparse file, so that the length is not more than there is."""
    write(file, b"{", length=100 * 10**9)
    with file.open("rb+") as sparse:
        sparse.truncate(101 * 10**9)
    with pytest.raises(CheckpointError, match="are not read"):
        read_header(file)
    assert peak_memory(file) < 2**20


def mutations(whole: bytes, header: int, rounds: int):
    """Truncations anywhere, and byte flips, swaps and repetitions in the header."""
    chance = random.Random(0)
    for _ in range(rounds):
        broken = bytearray(whole)
        match chance.randrange(4):
            case 0:
                broken = broken[: chance.randrange(len(broken))]
            case 1:
                for _ in range(chance.randint(1, 4)):
                    broken[chance.randrange(8 + header)] = chance.randrange(256)
            case 2:
                at = chance.randrange(8, 8 + header)
                broken[at] = chance.choice(b'{}[]",:0123456789\\ ')
            case 3:
                at, to = sorted(chance.randrange(8, 8 + header) for _ in range(2))
                broken[at:to] = broken[at:to] * 2
        yield bytes(broken)


def test_whatever_survives_fuzzing_is_also_read_by_safetensors(file):
    """Nothing but `CheckpointError` ever comes, and no header is accepted that the library refuses."""
    tensors = {f"block.{k}.weight": torch.zeros(k + 1, 2) for k in range(12)}
    save_file(tensors, file, metadata={"a": "b", "json": '{"c": [1]}'})
    whole = file.read_bytes()
    accepted = 0
    for broken in mutations(whole, int.from_bytes(whole[:8], "little"), 1500):
        file.write_bytes(broken)
        try:
            header = read_header(file)
        except CheckpointError:
            continue
        accepted += 1
        try:
            with safe_open(file, "pt") as theirs:
                assert header.tensors.keys() == set(theirs.keys())
        except SafetensorError as error:
            pytest.fail(f"{error}: {broken[8:]}")
    assert 20 < accepted < 750


@pytest.mark.parametrize("start", [b"", b"\0\0\0", b"12345678"])
def test_files_that_end_in_the_beginning(file, start):
    file.write_bytes(start)
    with pytest.raises(CheckpointError, match=f"incomplete: it has {len(start)} bytes"):
        read_header(file)


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(CheckpointError, match="there is no file at"):
            read_header(path)


def test_shown_texts_are_short_and_plain():
    assert shown("a\x1b[31m\nb") == r"a\u001b[31m\nb"
    assert shown("x" * 100, 10) == "x" * 9 + "…" and shown("x" * 10, 10) == "x" * 10


@pytest.mark.parametrize("length", [128, 640, 60])
def test_a_length_may_begin_as_other_files_do(length, tmp_path):
    """128 is the first byte of a pickle, 60 that of a web page."""
    file = tmp_path / "file.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + b"{}".ljust(length))
    assert read_header(file).tensors == {}
