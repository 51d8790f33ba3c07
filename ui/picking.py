"""What can be compared: the base, LoRAs and checkpoints of runs, LoRA files of the folders; and what a choice of them means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlr_core.errors import ConfigError, RLRError
from rlr_core.runs.directory import RunDirectory
from rlr_core.safetensors_header import read_header
from ui.workspace import Workspace

BASE = "base"
RUNS, FILES = 40, 60
"""Shown at a time, at most: the search finds the others."""
OF_RUN = re.compile(r"run/([^/\\]{1,200})/(\d{1,9})")


@dataclass(frozen=True)
class Choice:
    """A line of a picker.

    Attributes:
        key: by which it is chosen: "base", "run/NAME/ITERATION", or the path of a LoRA file.
        label: for people.
        group: the heading that it is under.
    """

    key: str
    label: str
    group: str


@dataclass(frozen=True)
class Side:
    """What a choice means.

    Attributes:
        label: for people.
        file: of the LoRA; None for the base, and for what is to be exported first.
        run: its folder, where it is of one.
        iteration: of the checkpoint to be exported.
    """

    label: str
    file: Path | None = None
    run: Path | None = None
    iteration: int | None = None


def choices(workspace: Workspace, search: str = "", *, base: bool = True) -> list[dict[str, Any]]:
    """Those whose label or group has all words of `search`, the newest runs first, as JSON."""
    words = search.casefold().split()
    found = [Choice(BASE, "The base, without a LoRA", "")] if base else []
    for directory in _runs(workspace, words):
        found += _of_run(directory)
    found += [choice for choice in _files(workspace) if _has(choice, words)][:FILES]
    return [asdict(choice) for choice in found if _has(choice, words)]


def _has(choice: Choice, words: list[str]) -> bool:
    text = f"{choice.group} {choice.label}".casefold()
    return all(word in text for word in words)


def _runs(workspace: Workspace, words: list[str]) -> list[RunDirectory]:
    """Of the newest that may have what is searched for."""
    try:
        folders = sorted(workspace.runs.iterdir(), key=lambda path: -path.lstat().st_mtime)
    except OSError:
        return []
    named = (
        [path for path in folders if any(word in path.name.casefold() for word in words)]
        if words
        else folders
    )
    made = (RunDirectory(path) for path in named or folders)
    return [
        each for _, each in zip(range(RUNS), (run for run in made if run.config_file.is_file()), strict=False)
    ]


def _of_run(directory: RunDirectory) -> Iterator[Choice]:
    """Its LoRA files, the newest first, then its checkpoints."""
    name = directory.folder.name
    for path in sorted(directory.folder.glob("*.safetensors"), key=lambda path: len(path.stem)):
        yield Choice(str(path), path.stem, name)
    for iteration in sorted(
        filter(None, directory.checkpoints.iterations), reverse=True
    ):  # at 0 a LoRA has no effect
        yield Choice(f"run/{name}/{iteration}", f"checkpoint of iteration {iteration}", name)


def _files(workspace: Workspace) -> Iterator[Choice]:
    """Of the folders for LoRAs."""
    for path in workspace.lora_files():
        if not path.is_relative_to(workspace.runs):
            yield Choice(str(path), path.stem, str(path.parent))


def side(workspace: Workspace, key: str) -> Side:
    """What `key` means. Raises `RLRError` for what is not there, or lies outside the folders."""
    if key == BASE:
        return Side("base")
    if found := OF_RUN.fullmatch(key):
        directory = workspace.run(found[1])
        return Side(f"{found[1]}, iteration {int(found[2])}", None, directory.folder, int(found[2]))
    path = lora_file(workspace, key)
    run = path.parent if path.parent.parent == workspace.runs else None
    return Side(f"{run.name}: {path.stem}" if run else path.stem, path, run)


def lora_file(workspace: Workspace, text: str) -> Path:
    """A LoRA file by its path. Raises `ConfigError` for what lies outside the folders, or is none."""
    path = Path(text)
    ours = (
        "\0" not in text and path.is_absolute() and path.suffix == ".safetensors" and workspace.allows(path)
    )
    if not ours or not path.is_file():
        raise ConfigError(
            f"the LoRA {text[:200]!r}",
            "a LoRA file of a run or of the folders that are set",
            "choose it from the list",
        )
    return path


def checkpoint_choices(workspace: Workspace, search: str = "") -> list[dict[str, Any]]:
    """Checkpoints to paint with: the runs' own first, the embedded one, those of the folders."""
    from rlr_core.models.scan import scan

    words = search.casefold().split()
    found = [Choice("", "The one that the LoRA was made for", ""), Choice("embedded", "The built-in one", "")]
    for each in scan(workspace.checkpoints):
        if each.description:
            found.append(Choice(str(each.path), each.path.stem, each.description.family))
    return [asdict(choice) for choice in found if _has(choice, words)][: RUNS + FILES]


def checkpoint_for(workspace: Workspace, sides: list[Side], chosen: str) -> str:
    """The checkpoint to paint with. Raises `ConfigError` where none is known."""
    if chosen:
        if chosen != "embedded" and not workspace.allows(Path(chosen)):
            raise ConfigError(
                f"the checkpoint {chosen[:200]!r}",
                "one of the folders that are set",
                "choose it from the list",
            )
        return chosen
    for each in sides:
        if each.run:
            return RunDirectory.open(each.run).config.model.checkpoint
    for each in sides:
        if each.file and (checkpoint := _made_for(workspace, each.file)):
            return checkpoint
    raise ConfigError(
        "no checkpoint to paint with", "the one that the LoRA was made for", "choose one under “Painted by”"
    )


def _made_for(workspace: Workspace, file: Path) -> str:
    """The checkpoint that a LoRA's file names, where the folders have one of that name."""
    try:
        name = read_header(file).metadata.get("ss_sd_model_name", "")
    except RLRError:
        return ""
    if name == "embedded" or not name:
        return name
    found = (path for folder in workspace.checkpoints for path in folder.glob(f"**/{_literal(name)}"))
    return str(next(found, ""))


def _literal(name: str) -> str:
    """A name as `glob` takes it for itself."""
    return re.sub(r"([\[\]*?])", r"[\1]", Path(name).name)
