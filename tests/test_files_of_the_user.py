"""What a command finds is not overwritten unasked, names are plain names, and the same content gives the same bytes."""

from __future__ import annotations

import random
from pathlib import Path

import loras
import pytest
import torch

pytest.importorskip("diffusers")

import runs

from rlr_core.cli import main
from rlr_core.config import load
from rlr_core.errors import ConfigError, RunError
from rlr_core.families import SD1
from rlr_core.file_names import name_problem
from rlr_core.lora import read_lora
from rlr_core.lora.files import write_lora
from rlr_core.runs import runner
from rlr_core.runs.directory import RunDirectory, free_folder

QUICK = ["--set", "model.checkpoint=checkpoint", "--set", "sampling.steps=1", "--set", "model.threads=1"]
MERGE = ["lora", "merge", "mine.safetensors"]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    folder = runs.workshop(tmp_path_factory.mktemp("workshop"))
    write_lora(folder / "mine.safetensors", loras.random_lora("sd1", 1, count=4), {}, family=SD1.lora)
    return folder


@pytest.fixture
def desk(workshop, tmp_path, monkeypatch) -> Path:
    """A working folder with a LoRA, and a link to a checkpoint."""
    (tmp_path / "checkpoint").symlink_to(workshop / "checkpoint")
    (tmp_path / "mine.safetensors").write_bytes((workshop / "mine.safetensors").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# runs


STRANGERS = (
    "model.safetensors",
    "report.html",
    "notes.txt",
    ".notes.tmp",
    "checkpoints/000001.pt",
    ".x.y.1.tmp.keep",
)


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_new_run_does_not_take_a_folder_of_the_user(stranger, desk, capsys):
    file = desk / "folder" / stranger
    file.parent.mkdir(parents=True)
    file.write_text("mine", encoding="utf-8")
    before = contents(desk)
    assert main(["demo", "--run", "folder"]) == 2
    assert "something else in it" in capsys.readouterr().err and contents(desk) == before


def test_only_what_is_ours_is_cleared_away(tmp_path):
    ours = ".config.toml.123.tmp", "checkpoints/.000001.pt.9.tmp", "previews/.000010.png.77.tmp", "stop"
    others = (
        ".notes.tmp",
        "mine.safetensors",
        "deep/.config.toml.123.tmp",
        ".a.tmp",
        "previews/.b.x.tmp",
        "report.html",
    )
    for name in (*ours, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    RunDirectory(tmp_path).remove_leftovers()
    assert set(contents(tmp_path)) == set(others)


# LoRA files


def test_a_lora_converted_onto_itself_is_refused_and_whole_by_force(desk, capsys):
    before = contents(desk)
    convert = ["lora", "convert", "mine.safetensors", "mine.safetensors", "--to", "diffusers"]
    assert main(convert) == 2
    assert "is there already" in capsys.readouterr().err and contents(desk) == before
    weights = read_lora(desk / "mine.safetensors").weights
    assert main([*convert, "--force"]) == 0
    after = read_lora(desk / "mine.safetensors")
    assert after.kind == "diffusers" and after.weights.keys() == weights.keys()
    for place, layer in weights.items():
        assert torch.equal(after.weights[place].up, layer.up) and after.weights[place].alpha == layer.alpha


@pytest.mark.parametrize("arguments", [["lora", "convert", "mine.safetensors"], [*MERGE, "mine.safetensors"]])
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_no_command_replaces_a_folder(arguments, force, desk, capsys):
    (desk / "out.safetensors").mkdir()
    (desk / "out.safetensors" / "notes.txt").write_text("mine", encoding="utf-8")
    before = contents(desk)
    assert main([*arguments, "out.safetensors", *force]) == 2
    assert "is a folder" in capsys.readouterr().err and contents(desk) == before


@pytest.mark.parametrize("out", ["other.safetensors", "link.safetensors", "dangling.safetensors"])
def test_what_is_there_is_replaced_by_force_alone(out, desk, capsys):
    """Also a link, which goes, and not what it leads to."""
    (desk / "other.safetensors").write_text("mine", encoding="utf-8")
    (desk / "link.safetensors").symlink_to("other.safetensors")
    (desk / "dangling.safetensors").symlink_to("nowhere")
    before = contents(desk)
    for command in (["lora", "convert", "mine.safetensors", out], [*MERGE, "mine.safetensors", out]):
        assert main(command) == 2
        assert "is there already" in capsys.readouterr().err and contents(desk) == before
    assert main(["lora", "convert", "mine.safetensors", out, "--force"]) == 0
    assert len(read_lora(desk / out).weights) == 4 and not (desk / out).is_symlink()
    assert not (desk / "nowhere").exists()
    assert out.startswith("other") or (desk / "other.safetensors").read_text("utf-8") == "mine"


def test_what_cannot_be_converted_leaves_what_is_there(desk, capsys):
    (desk / "broken.safetensors").write_bytes((desk / "mine.safetensors").read_bytes()[:-9])
    (desk / "other.safetensors").write_text("mine", encoding="utf-8")
    before = contents(desk)
    assert main(["lora", "convert", "broken.safetensors", "other.safetensors", "--force"]) == 2
    assert "incomplete" in capsys.readouterr().err and contents(desk) == before


def test_the_same_lora_gives_the_same_bytes(workshop, tmp_path):
    """In whatever order its metadata come; the safetensors library writes them in that of a hash map."""
    weights = read_lora(workshop / "mine.safetensors").weights
    facts = [(f"fact {k}", str(k)) for k in range(50)]
    written = set()
    for seed in range(3):
        random.Random(seed).shuffle(facts)
        write_lora(tmp_path / "a.safetensors", weights, dict(facts), family=SD1.lora)
        written.add((tmp_path / "a.safetensors").read_bytes())
    assert len(written) == 1


# pictures


def test_pictures_are_replaced_by_force_alone(desk, capsys):
    assert main(["sample", "a", "--out", "out", *QUICK]) == 0
    (desk / "out" / "000.png").write_text("mine", encoding="utf-8")
    (desk / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    before = contents(desk)
    assert main(["sample", "a", "--out", "out", *QUICK]) == 2
    assert "000.png is there already" in capsys.readouterr().err and contents(desk) == before
    assert main(["sample", "a", "--out", "out", "--force", *QUICK]) == 0
    assert (desk / "out" / "000.png").read_bytes().startswith(b"\x89PNG")
    assert (desk / "out" / "notes.txt").read_text("utf-8") == "mine"


# names


NAMES = {
    "": "no letters", ".": "no letters", "..": "no letters", " ": "no letters", "../x": "has /", "a/b": "has /",
    "a\\b": "has \\",
    "/etc/x": "has /", "C:x": "has :", "a*": "has *", 'a"b?': 'has " ?', "a\0b": "cannot be printed",
    "a\nb": "cannot be printed",
    "a\x1b[31m": "cannot be printed", "a.": "ends with a dot", "a ": "ends with a dot or a space", "CON": "Windows",
    "nul.txt": "Windows", "com1": "Windows", "LPT¹.x.y": "Windows", "aux .x": "Windows", "x" * 201: "201 bytes",
    "ü" * 101: "202 bytes",
}  # fmt: skip
PLAIN = "rlr-lora", "a.b", "mein Läufer 1.5", "火", ".hidden", "console", "com", "x" * 200


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_plain_name(name, tmp_path):
    assert NAMES[name] in name_problem(name)
    with pytest.raises(ConfigError, match=r"output\.name"):
        load(None, [{"output": {"name": name}}])
    with pytest.raises(RunError, match="a run called"):
        free_folder(tmp_path, name)


@pytest.mark.parametrize("name", ["worker", "Overview"])
def test_a_lora_is_not_called_like_a_file_of_its_run(name):
    with pytest.raises(ConfigError, match="a file of that name"):
        load(None, [{"output": {"name": name}}])


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_name(name, tmp_path):
    assert load(None, [{"output": {"name": name}}]).output.name == name
    assert free_folder(tmp_path, name).parent == tmp_path


def test_a_config_file_whose_name_no_folder_can_have(desk, capsys):
    (desk / "con.toml").write_text("", encoding="utf-8")
    assert main(["train", "con.toml"]) == 2
    assert "a run called 'con'" in capsys.readouterr().err and not (desk / "runs").exists()


def test_a_lora_names_a_reward_file_without_its_folder(tmp_path):
    """It is passed on to others: neither its metadata nor its card tell where on this machine the file was."""
    folder = tmp_path / "private place"
    folder.mkdir()
    text = "def score(images, prompts):\n    return images.mean((1, 2, 3))\n\n\nscore.differentiable = True\n"
    (folder / "mine.py").write_text(text, encoding="utf-8")
    workshop = runs.workshop(tmp_path / "workshop")
    for name in (f"{folder / 'mine.py'}:score", "mix"):
        reward = {"reward__name": name, "reward__held_out": f"{folder / 'mine.py'}"}
        if name == "mix":
            reward["estimator__name"] = "reinforce"
            reward["reward__mix"] = {f"{folder / 'mine.py'}:score": 0.7, "sharpness": 0.3}
        run = runner.start(runs.config(workshop, **reward), tmp_path / name[-3:], lambda event: None).folder
        for file in (*run.glob("*.safetensors"), run / "rlr-lora.json"):
            written = file.read_bytes()
            assert b"private place" not in written and b"mine.py:score" in written
