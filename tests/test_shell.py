"""Names as users give them, and the shell that answers at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlr_core.cli import given
from rlr_core.embedded import CHECKPOINT
from rlr_core.errors import CheckpointError


def test_a_file_is_found_without_its_ending_and_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.lora v1.safetensors").touch()
    assert given.existing("my.lora v1") == Path("my.lora v1.safetensors")
    assert given.existing("~/my.lora v1") == tmp_path / "my.lora v1.safetensors"
    assert given.existing("~/my.lora v1.safetensors") == tmp_path / "my.lora v1.safetensors"
    assert given.existing("none") == Path("none"), "the error names what was given"
    (tmp_path / "my.lora v1").mkdir()
    assert given.existing("my.lora v1") == Path("my.lora v1"), "a name that is there is meant"
    assert given.checkpoint("embedded") == CHECKPOINT
    assert given.checkpoint("./embedded") == Path("embedded")


def test_a_new_file_gets_its_ending():
    assert given.new_file("out") == Path("out.safetensors")
    assert given.new_file("v1.5") == Path("v1.5.safetensors")
    assert given.new_file("~/out").is_absolute()
    for name in ("out.ckpt", "out.pt", "out.txt", "/"):
        with pytest.raises(CheckpointError, match="file name"):
            given.new_file(name)


def test_a_lora_is_converted_and_merged_by_such_names(tmp_path, monkeypatch, capsys):
    pytest.importorskip("diffusers")
    from rlr_core.cli import main

    monkeypatch.chdir(tmp_path)
    small_lora(Path("mine.safetensors"))
    assert main(["lora", "convert", "mine", "other", "--to", "comfyui"]) == 0
    assert main(["lora", "info", "other"]) == 0
    assert main(["lora", "merge", "mine", "embedded", "merged"]) == 0
    assert (tmp_path / "merged" / "model_index.json").is_file()
    assert main(["checkpoint", "info", "embedded"]) == 0
    assert "Stable Diffusion 1.x" in capsys.readouterr().out


def test_a_plan_names_its_checkpoint(capsys):
    pytest.importorskip("diffusers")
    from rlr_core.cli import main

    assert main(["plan", "--memory", "80", "--device", "cpu"]) == 0
    assert "Checkpoint: embedded (for another one" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["trian"], ["sample", "--help"], ["--version"]])
def test_the_shell_answers_without_torch(arguments):
    """Which takes seconds to import."""
    code = (
        "import sys\nfrom rlr_core.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'matplotlib', 'PIL', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


QUICK = """
import sys
from rlr_core.cli import main
assert main() == 0
heavy = ("torch._dynamo", "peft", "torchvision", "matplotlib")
heavy = {name for name in heavy if sys.modules.get(name)}
assert not heavy, heavy
import torch
weight = torch.nn.Parameter(torch.zeros(2))
weight.grad = torch.ones(2)
torch.optim.Adam([weight]).step()  # which imports the compiler
assert callable(torch._dynamo.disable) and torch.distributed.is_available() and torch._dynamo.optimize
import peft, torchvision
"""


@pytest.mark.parametrize("lora", [False, True])
def test_sample_imports_no_compiler_and_leaves_it_importable(tmp_path, lora):
    """And it paints what it paints with all libraries imported as usual."""
    pytest.importorskip("peft")
    pytest.importorskip("torchvision")
    from PIL import Image

    from rlr_core.cli import main

    options = ["sample", "a red circle", "--set", "sampling.steps=2", "--set", "model.threads=1"]
    if lora:
        options += ["--lora", str(small_lora(tmp_path / "mine.safetensors"))]
    command = [sys.executable, "-c", QUICK, *options, "--out", str(tmp_path / "quick")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert main([*options, "--out", str(tmp_path / "usual")]) == 0
    quick, usual = (Image.open(tmp_path / name / "000.png") for name in ("quick", "usual"))
    assert quick.tobytes() == usual.tobytes()


def small_lora(file: Path) -> Path:
    """Of the embedded checkpoint."""
    import torch

    from rlr_core.config import LoraConfig
    from rlr_core.lora import inject, write_lora
    from rlr_core.models import load_model

    model = load_model("embedded", device="cpu", dtype=torch.float32)
    lora = inject(model, LoraConfig(rank=2), 0)
    for _, _, up in lora.layers():
        torch.nn.init.constant_(up, 0.01)
    write_lora(file, lora.weights(), {}, family=model.lora_family)
    lora.eject()
    return file
