"""Every argument of every command, given what it is not for: an error in words, within a moment, and nothing is written."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import fuzz
import loras
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

pytest.importorskip("diffusers")

import runs

from rlr_core import config
from rlr_core.cli import main
from rlr_core.families import SD1
from rlr_core.lora.files import write_lora

STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
PEFT = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
NOWHERE = (
    "", ".", "..", "/", "nowhere", "nowhere.safetensors", "a\0b", "x" * 5000, "y" * 300 + ".safetensors",
    "z/" * 3000 + "a.safetensors",
    "~nobody/x.safetensors", "a\x1b[31mred\x07.safetensors", "\udcff\udcfe.safetensors", "ü\u202e\u200b😀.safetensors",
    "tiny.toml/x.safetensors", "/dev/null", "/dev/zero", "/proc/self/mem",
)  # fmt: skip
"""Paths of no file that a command takes."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder of good files, and of all kinds of bad ones."""
    folder = runs.workshop(tmp_path_factory.mktemp("desk"))
    (folder / "tiny.toml").write_text(config.to_toml(runs.config(folder)), encoding="utf-8")
    write_lora(folder / "mine.safetensors", loras.random_lora("sd1", 1, count=2), {}, family=SD1.lora)
    Image.effect_noise((16, 16), 40.0).convert("RGB").save(folder / "good.png")
    for make in (_files, _no_files, _strange_tensors):
        (folder / make.__name__).mkdir()
        make(folder / make.__name__)
    return folder


def _files(folder: Path) -> None:
    contents = {
        "empty": b"",
        "binary": os.urandom(5000),
        "text": b"hello\n" * 100,
        "c\x1b[31m": b"\xff" * 200,
        "\udcffx": b"\xfe" * 150,
    }
    for name, data in contents.items():
        (folder / f"{name}.safetensors").write_bytes(data)


def _no_files(folder: Path) -> None:
    os.mkfifo(folder / "fifo.safetensors")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket.safetensors"))
    (folder / "dangling.safetensors").symlink_to("nothing")
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    (folder / "folder.safetensors").mkdir()


def _strange_tensors(folder: Path) -> None:
    for kind, bits in {
        "C64": 64,
        "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8,
        "I32": 32,
        "BOOL": 8,
        "F4": 4,
        "U64": 64,
    }.items():
        half = 4 * 320 * bits // 8
        down = {"dtype": kind, "shape": [4, 320], "data_offsets": [0, half]}
        up = {"dtype": kind, "shape": [320, 4], "data_offsets": [half, 2 * half]}
        text = json.dumps({f"{STEM}.lora_down.weight": down, f"{STEM}.lora_up.weight": up}).encode()
        data = len(text).to_bytes(8, "little") + text + b"\x01" * 2 * half
        (folder / f"{kind}.safetensors").write_bytes(data)
    down, up = torch.ones(4, 320), torch.ones(320, 4)
    for alpha in (1e300, -1e300, float("nan"), float("inf")):
        tensors = {f"{STEM}.lora_down.weight": down, f"{STEM}.lora_up.weight": up}
        tensors[f"{STEM}.alpha"] = torch.tensor(alpha, dtype=torch.float64)
        save_file(tensors, folder / f"alpha {alpha}.safetensors")
    for k, alpha in enumerate((1e300, "x", [1], None, True, 10**30)):
        tensors = {f"{PEFT}.lora_A.weight": down, f"{PEFT}.lora_B.weight": up}
        facts = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": alpha})}
        save_file(tensors, folder / f"told {k}.safetensors", metadata=facts)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of them."""
    began = time.process_time()
    try:
        code: object = main(arguments)
    except SystemExit as done:  # of argparse
        code = done.code
    seconds, said = time.process_time() - began, capsys.readouterr()
    short = [word[:80] for word in arguments]
    assert code == 2, f"{short}: {code}, {said.out[-300:]}"
    assert seconds < fuzz.MOMENT, f"{short}: {seconds:.1f} s of work"
    assert "Traceback" not in said.err and said.err.replace("\n", "").isprintable(), short
    assert len(said.err) < 6000 and ("what to do:" in said.err or "usage:" in said.err), short
    return said.err


READS = [
    ["lora", "info", "{}"], ["lora", "convert", "{}", "out.safetensors"], ["lora", "merge", "{}", "checkpoint", "out"],
    ["sample", "a", "--lora", "{}", "--out", "out"], ["train", "tiny.toml", "--run", "out", "--set", "lora.start={}"],
]  # fmt: skip
"""Commands that read a LoRA."""
OTHERS = [
    ["lora", "merge", "mine.safetensors", "{}", "out.safetensors"], ["checkpoint", "info", "{}"],
    ["checkpoint", "info", "{}", "--allow-pickle"], ["sample", "a", "--out", "out", "--set", "model.checkpoint={}"],
    ["sample", "a", "--out", "out", "--set", "model.checkpoint=checkpoint", "--set", "model.vae={}"],
    ["score", "{}", "--prompt", "a", "--reward", "sharpness"], ["score", "good.png", "--prompts", "{}", "--reward",
    "sharpness"],
    ["score", "good.png", "--prompt", "a", "--reward", "{}"], ["score", "good.png", "--prompt", "a", "--reward", "{}:f"],
    ["score", "good.png", "--prompt", "a", "--reward", "{}.py:f"], ["score", "good.png", "--prompt", "a", "--device", "{}"],
    ["train", "{}"], ["train", "tiny.toml", "--run", "out", "--set", "prompts.held_out_file={}"],
    ["train", "tiny.toml", "--run", "out", "--set", "reward.name={}"], ["plan", "{}"], ["plan", "tiny.toml", "--device", "{}"],
    ["resume", "{}"], ["resume", "{}", "--detach"], ["stop", "{}"], ["config", "--preset", "{}"], ["config", "--set", "{}"],
    ["config", "--set", "sampling.steps={}"], ["rewards", "list", "{}"], ["rewards", "download", "{}"],
    ["bench", "steps", "--out", "out", "--only", "x,{}"], ["bench", "steps", "--out", "out", "--device", "{}"],
    ["bench", "rewards", "--out", "out", "--only", "x,{}"], ["preview", "{}"], ["save", "{}"], ["queue", "move", "{}", "1"],
    ["queue", "remove", "{}"], ["stages", "a", "--out", "out.png", "--checkpoint", "{}"],
    ["stages", "a", "--out", "out.png", "--reward", "{}"], ["stages", "a", "--write", "--server", "{}"],
]  # fmt: skip
"""Commands that read something else."""
HARMLESS = {
    "": (
        "prompts.held_out_file={}",
        "model.vae={}",
        "lora.start={}",
        "score {}",
        "--checkpoint {}",
        "--reward {}",
    ),
    ".": ("score {}",),
    "_files/empty.safetensors": ("train {}", "plan {}"),
    "_files/text.safetensors": ("prompts.held_out_file={}",),
}
"""Path → parts of commands that it is right for: nothing is a setting, and an empty file a config; this folder has pictures."""


def given(template: list[str], path: str) -> list[str]:
    return [word.replace("{}", path) for word in template]


@pytest.mark.parametrize("template", [*READS, *OTHERS], ids=" ".join)
def test_paths_of_nothing_that_is_wanted(template, desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    bad = [
        str(path.relative_to(desk))
        for name in ("_files", "_no_files")
        for path in sorted((desk / name).iterdir())
    ]
    for path in (*NOWHERE, *bad):
        if not any(part in " ".join(template) for part in HARMLESS.get(path, ())):
            refused(given(template, path), capsys)
    assert not list(desk.glob("out*")) and not list(desk.rglob(".*.tmp"))


WRITES = [
    ["stages", "a", "--out", "{}"], ["stages", "coarse: a | fine: b", "--write", "--out", "{}"], ["sample", "a", "--out", "{}"],
    ["lora", "convert", "mine.safetensors", "{}"], ["lora", "merge", "mine.safetensors", "checkpoint", "{}"],
]  # fmt: skip
"""Commands that write a file or a folder."""
IMPOSSIBLE = "a\0b", "x" * 5000, "y" * 300, "z/" * 3000 + "a", "tiny.toml/x", "/dev/null/x"


@pytest.mark.parametrize("template", WRITES, ids=" ".join)
def test_paths_where_nothing_can_be_written(template, desk, monkeypatch, capsys):
    """Said before what is to be written is made."""
    monkeypatch.chdir(desk)
    for path in IMPOSSIBLE:
        refused(given(template, path), capsys)


@pytest.mark.parametrize("template", READS, ids=" ".join)
def test_loras_of_strange_numbers(template, desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    for path in sorted((desk / "_strange_tensors").iterdir()):
        refused(given(template, str(path.relative_to(desk))), capsys)
    assert not list(desk.glob("out*"))


NUMBERS = "-1", "1000000000", "9" * 25, "9" * 5000, "1e300", "nan", "inf", "x", ""
OF = {
    "--count": "sample a --out out", "--strength": "sample a --out out --lora mine.safetensors",
    "--strengths": "sample a --out out --lora mine.safetensors",
    "--seed": "stages a --out out.png", "--timeout": "stages a --write --server http://127.0.0.1:9",
    "--memory": "plan tiny.toml --device cpu", "model.threads": "config", "sampling.steps": "config",
    "sampling.size": "config", "lora.rank": "config",
    "training.batch_size": "config", "estimator.branches": "config", "memory.painted": "config", "output.previews": "config",
}  # fmt: skip
"""Setting or option → of what command."""
RIGHT = {"--strength": ("-1",), "--strengths": ("-1",), "--seed": ("1000000000",)}


@pytest.mark.parametrize("name", OF)
def test_numbers_out_of_range(name, desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    for number in set(NUMBERS) - set(RIGHT.get(name, ())):
        option = [f"{name}={number}"] if name.startswith("--") else ["--set", f"{name}={number}"]
        refused([*OF[name].split(), *option], capsys)
    assert not list(desk.glob("out*"))


@pytest.mark.parametrize(
    "value",
    ["[" * 100_000, "{a=" * 5000, "9" * 5000, "a." * 10_000 + "b = 1"],
    ids=["lists", "tables", "digits", "dots"],
)
def test_values_that_are_deep_or_long(value, desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    (desk / "deep.toml").write_text(f"[sampling]\nsteps = {value}\n", encoding="utf-8")
    refused(["train", "deep.toml", "--run", "out"], capsys)
    refused(["config", "--set", f"sampling.steps={value}"], capsys)


def test_millions_of_strengths(desk, monkeypatch, capsys):
    monkeypatch.chdir(desk)
    strengths = ",".join(["0.1"] * 2_000_000)
    refused(["sample", "a", "--lora", "mine.safetensors", "--out", "out", "--strengths", strengths], capsys)


def test_a_folder_that_was_moved_away(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "is not there any more" in refused(["runs"], capsys)
