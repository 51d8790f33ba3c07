"""Installations of other programs are told by their own files, in bounded time; settings name folders and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rlr_core.errors import ConfigError
from ui.finding import Installation, found_installations, installation
from ui.settling import proposals, save_folders, save_theme, view
from ui.workspace import Workspace

FILES = {
    "ComfyUI": ("comfy/x.py", "nodes.py", "folder_paths.py", "models/checkpoints/x", "models/loras/x"),
    "A1111": (
        "modules/x.py",
        "webui.py",
        "extensions-builtin/x",
        "models/Stable-diffusion/x",
        "models/Lora/x",
    ),
    "Forge": ("modules/x.py", "modules_forge/x.py", "webui.py", "models/Stable-diffusion/x", "models/Lora/x"),
    "SD.Next": (
        "modules/x.py",
        "installer.py",
        "webui.py",
        "extensions-builtin/x",
        "models/Stable-diffusion/x",
    ),
}


def program(kind: str, folder: Path) -> Path:
    for name in FILES[kind]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("kind", FILES)
def test_a_program_is_told_by_its_files(tmp_path: Path, kind: str):
    found = found_installations([program(kind, tmp_path / "a b" / "ünï" / "程序").parents[1]])
    assert [each.kind for each in found] == [kind]
    names = [path.name for path in (*found[0].checkpoints, *found[0].loras)]
    assert names in (["checkpoints", "loras"], ["Stable-diffusion", "Lora"], ["Stable-diffusion"])


def test_reforge_goes_by_its_folder(tmp_path: Path):
    found = installation(program("Forge", tmp_path / "stable-diffusion-webui-reForge"))
    assert found is not None and found.kind == "reForge"


def test_a_folder_without_their_files_is_none(tmp_path: Path):
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    (tmp_path / "webui.py").touch()
    assert installation(tmp_path) is None and found_installations([tmp_path]) == []


def test_what_is_too_deep_or_hidden_is_not_looked_for(tmp_path: Path):
    program("ComfyUI", tmp_path / "1" / "2" / "3" / "4" / "deep")
    program("ComfyUI", tmp_path / ".hidden")
    program("ComfyUI", tmp_path / "venv" / "x")
    assert found_installations([tmp_path]) == []


def test_a_link_in_a_circle_and_two_ways_to_one_folder_end(tmp_path: Path):
    program("A1111", tmp_path / "real" / "webui")
    (tmp_path / "real" / "round").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "real")
    assert len(found_installations([tmp_path, tmp_path / "again", tmp_path / "real"])) == 1


def test_looking_ends_in_time(tmp_path: Path):
    for number in range(50):
        (tmp_path / f"{number}" / "a").mkdir(parents=True)
    began = time.monotonic()
    assert found_installations([tmp_path, program("ComfyUI", tmp_path / "late")], seconds=0) == []
    assert time.monotonic() - began < 1


def test_comfyui_names_more_folders(tmp_path: Path):
    comfy = program("ComfyUI", tmp_path / "ComfyUI")
    for name in ("other/models/Stable-diffusion", "other/models/Lora", "other/models/LyCORIS", "big/ckpts"):
        (tmp_path / name).mkdir(parents=True)
    (comfy / "extra_model_paths.yaml").write_text(
        "# of the example\na111:\n    base_path: ../other/\n\n    checkpoints: models/Stable-diffusion\n"
        "    loras: |\n         models/Lora\n         models/LyCORIS\n    vae: models/VAE\n"
        f"mine:\n    checkpoints: '{tmp_path / 'big' / 'ckpts'}' # large\n    loras: not/there\n",
        encoding="utf-8",
    )
    found = installation(comfy)
    assert found is not None
    assert [path.name for path in found.checkpoints] == ["checkpoints", "Stable-diffusion", "ckpts"]
    assert [path.name for path in found.loras] == ["loras", "Lora", "LyCORIS"]


@pytest.mark.parametrize(
    "text", ["\t: [", "a: &a [*a]", "x" * 200_000, "a:\n  base_path: ~nobody/../..\n  loras: ''\n", "\0"]
)
def test_a_strange_file_of_paths_harms_nothing(tmp_path: Path, text: str):
    comfy = program("ComfyUI", tmp_path)
    (comfy / "extra_model_paths.yaml").write_text(text, encoding="utf-8")
    found = installation(comfy)
    assert found is not None and found.loras[0] == comfy / "models" / "loras"


def test_what_is_set_already_is_not_proposed(tmp_path: Path):
    workspace = Workspace.open(tmp_path)
    there = Installation("ComfyUI", tmp_path, [tmp_path / "models" / "checkpoints"], [tmp_path / "l"])
    (line,) = proposals(workspace, [there])
    assert line["checkpoints"] == [] and line["loras"] == [str(tmp_path / "l")]
    save_folders(workspace, {**given(workspace), "loras": [str(tmp_path / "l")]})
    assert proposals(workspace, [there]) == []


def given(workspace: Workspace) -> dict[str, list[str]]:
    return {name: [line["folder"] for line in lines] for name, lines in view(workspace)["folders"].items()}


def test_settings_are_kept(tmp_path: Path):
    workspace = Workspace.open(tmp_path)
    (tmp_path / "Läufe").mkdir()
    save_folders(
        workspace, {**given(workspace), "runs": ["Läufe"], "checkpoints": ["a", " a ", "", "b"], "loras": []}
    )
    save_theme(workspace, "dark")
    shown = view(Workspace.open(tmp_path))
    assert shown["theme"] == "dark" and shown["folders"]["runs"][0]["there"]
    assert [line["folder"] for line in shown["folders"]["checkpoints"]] == ["a", "b"] and shown["folders"][
        "loras"
    ] == []


@pytest.mark.parametrize(
    "values",
    [
        {"runs": []},
        {"runs": ["a", "b"]},
        {"runs": "runs"},
        {"loras": [1]},
        {"loras": ["a\nb"]},
        {"loras": ["/"]},
        {"loras": ["a file"]},
        {"loras": ["x" * 2000]},
        {"rewards": None},
        {"checkpoints": [f"{n}" for n in range(51)]},
    ],
)
def test_what_can_be_no_folder_is_refused(tmp_path: Path, values: dict):
    workspace = Workspace.open(tmp_path)
    (tmp_path / "a file").touch()
    before = workspace.settings
    with pytest.raises(ConfigError):
        save_folders(workspace, {**given(workspace), **values})
    assert Workspace.open(tmp_path).settings == before == workspace.settings


def test_another_theme_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="pink"):
        save_theme(Workspace.open(tmp_path), "pink")
