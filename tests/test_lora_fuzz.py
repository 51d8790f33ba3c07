"""LoRA files that are damaged or hostile: an error in under a second, in constant memory, and no traceback."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from pathlib import Path

import fuzz
import loras
import pytest
from safetensors.torch import save

pytest.importorskip("diffusers")

from rlr_core.cli import main
from rlr_core.errors import RLRError
from rlr_core.families import SDXL
from rlr_core.lora import read_lora
from rlr_core.lora.encoding import encode
from rlr_core.lora.info import lora_report

ENDS = {".lora_down.weight": [4, 5], ".lora_up.weight": [6, 4], ".alpha": []}


@pytest.fixture(scope="module")
def whole() -> bytes:
    state, facts = encode(loras.random_lora("sdxl", 1, count=30), "diffusers", SDXL.lora)
    return save(state, metadata=facts)


def refused(file: Path) -> str | None:
    """The message, or None where it is read; either within a moment of work."""
    began = time.process_time()
    try:
        lora_report(file)
        return None
    except RLRError as error:
        return str(error)
    finally:
        assert time.process_time() - began < fuzz.MOMENT


@pytest.mark.parametrize("seed", range(40))
def test_bytes_that_flip_in_the_header(seed, whole, tmp_path):
    generator, data = random.Random(seed), bytearray(whole)
    length = int.from_bytes(data[:8], "little")
    for _ in range(generator.randint(1, 4)):
        data[generator.randrange(8 + length)] ^= 1 << generator.randrange(8)
    (tmp_path / "lora.safetensors").write_bytes(data)
    refused(tmp_path / "lora.safetensors")


@pytest.mark.parametrize("seed", range(15))
def test_files_that_were_cut_off(seed, whole, tmp_path):
    cut = random.Random(seed).randrange(len(whole)) if seed > 2 else seed * 4
    (tmp_path / "lora.safetensors").write_bytes(whole[:cut])
    assert refused(tmp_path / "lora.safetensors")


@pytest.mark.parametrize("seed", range(15))
def test_words_that_change_places(seed, whole, tmp_path):
    """A header that is whole JSON, with names, types and shapes that are not what they were."""
    generator = random.Random(seed)
    length = int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8 : 8 + length])
    names = [name for name in entries if name != "__metadata__"]
    for _ in range(3):
        one, other = generator.sample(names, 2)
        entries[one], entries[other] = entries[other], entries[one]
        entry = entries[generator.choice(names)]
        entry["shape"] = generator.choice([entry["shape"][::-1], [], [1, *entry["shape"]], entry["shape"]])
    text = json.dumps(entries).encode()
    (tmp_path / "lora.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    refused(tmp_path / "lora.safetensors")


def test_random_bytes(tmp_path):
    for seed in range(20):
        (tmp_path / "lora.safetensors").write_bytes(random.Random(seed).randbytes(3000))
        assert refused(tmp_path / "lora.safetensors")


def write(file: Path, tensors: dict[str, list[int]], metadata: dict[str, str] | None = None) -> None:
    """Tensors of zeros, without the library, which would refuse some."""
    entries: dict[str, object] = {"__metadata__": metadata or {}}
    end = 0
    for name, shape in tensors.items():
        size = 4
        for side in shape:
            size *= side
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries).encode()
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + end)


def test_ten_thousand_tensors_of_nonsense(tmp_path):
    write(tmp_path / "lora.safetensors", {f"lora_unet_nonsense_{j}.alpha": [] for j in range(10_000)})
    assert "0 of its 10000 tensors" in (refused(tmp_path / "lora.safetensors") or "")


def test_names_made_to_be_slow(tmp_path):
    names = ["lora_unet_" + "proj_out_" * 20_000 + "x", "unet." + "out." * 50_000 + "!", "_" * 100_000]
    write(tmp_path / "lora.safetensors", {name + ".alpha": [] for name in names})
    message = refused(tmp_path / "lora.safetensors") or ""
    assert "0 of its 3 tensors" in message and len(message) < 1000


def test_a_rank_of_billions_takes_no_memory(tmp_path):
    """The file is as long as its header says, and has holes instead of numbers."""
    stem, rank = "lora_unet_mid_block_attentions_0_proj_in", 2**22
    write(
        tmp_path / "lora.safetensors",
        {stem + ".lora_down.weight": [rank, 640], stem + ".lora_up.weight": [640, rank]},
    )
    tracemalloc.start()
    message = refused(tmp_path / "lora.safetensors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message and "rank of 4194304" in message and peak < 2**22


def test_metadata_for_the_terminal(tmp_path):
    """Control characters do not reach it, and long texts are cut."""
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    texts = {"a\x1b[31m": "\x1b]0;owned\x07" + "y" * 100_000, "b": "line\nline"}
    write(tmp_path / "lora.safetensors", {stem + end: shape for end, shape in ENDS.items()}, texts)
    text = lora_report(tmp_path / "lora.safetensors")
    assert "\x1b" not in text and "\x07" not in text and len(text) < 3000


@pytest.mark.parametrize("action", ["info", "convert", "merge"])
def test_the_command_line_tells_it_in_words(action, tmp_path, capsys):
    file = tmp_path / "lora.safetensors"
    file.write_bytes(b"\xff" * 200)
    more = {
        "info": [],
        "convert": [str(tmp_path / "o.safetensors")],
        "merge": [str(file), str(tmp_path / "o.safetensors")],
    }
    assert main(["lora", action, str(file), *more[action]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error and str(file) in error


def test_a_whole_file_is_read(whole, tmp_path):
    (tmp_path / "lora.safetensors").write_bytes(whole)
    assert len(read_lora(tmp_path / "lora.safetensors").weights) == 30
    assert refused(tmp_path / "lora.safetensors") is None
