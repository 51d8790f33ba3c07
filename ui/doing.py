"""What can be done to a run from the page; each raises `RLRError` where it cannot."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlr_core.config import RunConfig, load
from rlr_core.embedded import DEMO
from rlr_core.errors import ConfigError, RunError
from rlr_core.file_names import name_problem
from rlr_core.runs.killing import kill
from rlr_core.runs.overview import Overview
from rlr_core.runs.queue import Queue
from rlr_core.runs.requests import Request, request, request_stop
from ui.workspace import Workspace

Act = Callable[[Workspace, str, dict[str, Any]], dict[str, Any]]
FORMATS = ("auto", "kohya", "diffusers", "comfyui")
MERGED = ("file", "folder", "as", "strength")
EXPORTED = ("file", "folder", "as", "format", "precision", "words")
PRECISIONS = ("float32", "float16", "bfloat16")


def begin(workspace: Workspace, config: RunConfig, name: str = "") -> dict[str, Any]:
    """Start a run, or let it wait while another one is at work; returns its name."""
    from rlr_core.trainer.deciding import decided

    folder = Queue(workspace.runs).add(decided(config), name)
    Queue(workspace.runs).advance()
    return {"run": folder.name}


def start_demo(workspace: Workspace) -> dict[str, Any]:
    """On the embedded checkpoint, with nothing to set."""
    return begin(workspace, load(DEMO), "demo")


def _stop(workspace: Workspace, name: str, values: dict[str, Any]) -> dict[str, Any]:
    if not request_stop(workspace.run(name).folder):
        raise RunError(f"the run {name} is not running", "a running run", "reload the page")
    return {"told": "It saves a checkpoint and its LoRA, then it ends."}


def _kill(workspace: Workspace, name: str, values: dict[str, Any]) -> dict[str, Any]:
    kill(workspace.run(name).folder)
    return {"told": "Its process is gone; what came after its last checkpoint is lost."}


def _ask(what: Request) -> Act:
    def act(workspace: Workspace, name: str, values: dict[str, Any]) -> dict[str, Any]:
        if not request(workspace.run(name).folder, what):
            raise RunError(f"the run {name} is not running", "a running run", "reload the page")
        return {
            "told": f"It comes after this iteration: a {'preview' if what == 'preview' else 'checkpoint and a LoRA'}."
        }

    return act


def _resume(workspace: Workspace, name: str, values: dict[str, Any]) -> dict[str, Any]:
    queue = Queue(workspace.runs)
    queue.resume(workspace.run(name).folder)
    started = queue.advance()
    return {"told": "It goes on." if started else "It waits until the card is free."}


def _extend(workspace: Workspace, name: str, values: dict[str, Any]) -> dict[str, Any]:
    from rlr_core.runs.extending import lengthen

    more = values.get("iterations")
    if type(more) is not int:
        raise ConfigError(f"iterations = {more!r}", "how many more", "give a whole number")
    lengthen(workspace.run(name).folder, more)
    return _resume(workspace, name, values)


def _best(workspace: Workspace, name: str, values: dict[str, Any]) -> dict[str, Any]:
    _stop(workspace, name, values)
    return {"told": "It saves and ends. Export then offers the best LoRA first."}


def _up(workspace: Workspace, name: str, values: dict[str, Any]) -> dict[str, Any]:
    queue, folder = Queue(workspace.runs), workspace.run(name).folder
    place = (
        [path.name for path in queue.waiting()].index(name)
        if name in {p.name for p in queue.waiting()}
        else 0
    )
    queue.move(folder, max(0, place - 1))
    return {"told": "It is earlier in the queue."}


def _remove(workspace: Workspace, name: str, values: dict[str, Any]) -> dict[str, Any]:
    Queue(workspace.runs).remove(workspace.run(name).folder)
    return {"told": "It is out of the queue."}


def _delete(workspace: Workspace, name: str, values: dict[str, Any]) -> dict[str, Any]:
    directory = workspace.run(name)
    if values.get("name") != name:
        raise ConfigError(
            "no name", f"the run's name, {name}", "type it to delete the run with all that is in it"
        )
    with directory.held(0.2):
        pass  # nobody works on it
    shutil.rmtree(directory.folder)
    return {"told": f"{name} is deleted.", "gone": True}


def _choices(workspace: Workspace, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """What the dialog of an export offers."""
    directory = workspace.run(name)
    told = Overview.read(directory.overview_file).follow(directory.events_file)
    alarmed = bool(told.facts.alarm)
    files = sorted(
        (path.name for path in directory.folder.glob("*.safetensors")),
        key=lambda file: (file.endswith("-best.safetensors") != alarmed, file),
    )
    return {
        "files": files,
        "checkpoints": directory.checkpoints.iterations,
        "folders": [str(path) for path in workspace.loras],
        "checkpoint_folders": [str(path) for path in workspace.checkpoint_folders],
        "name": directory.config.output.name,
        "formats": FORMATS,
        "precisions": PRECISIONS,
    }


def _export(workspace: Workspace, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Put a LoRA of the run into a folder of a host, with its card and picture."""
    from ui.exporting import export

    directory = workspace.run(name)
    told = _told(values, EXPORTED)
    target = _target(told, workspace.loras)
    file = export(
        directory,
        told["file"],
        target.with_name(f"{target.name}.safetensors"),
        told["format"],
        told["precision"],
        told["words"],
        force=values.get("force") is True,
    )
    return {"told": f"Written: {file}", "prompt": f"<lora:{file.stem}:1>"}


def _merge(workspace: Workspace, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Put a checkpoint with the LoRA in it into a folder for checkpoints."""
    from ui.exporting import merge_into_checkpoint

    directory, told = workspace.run(name), _told(values, MERGED)
    try:
        strength = float(told["strength"])
    except ValueError:
        raise ConfigError(
            f"a strength of {told['strength'][:40]!r}", "a number, as 0.8", "correct it"
        ) from None
    target = _target(told, workspace.checkpoint_folders)
    force = values.get("force") is True
    return {
        "told": f"Written: {merge_into_checkpoint(directory, told['file'], target, strength, force=force)}"
    }


def _told(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """What a dialog says. Raises `ConfigError` where a part of it is not there."""
    told = {key: value for key in names if isinstance(value := values.get(key), str)}
    if len(told) < len(names):
        raise ConfigError("an export without all of its choices", ", ".join(names), "reload the page")
    return told


def _target(told: dict[str, str], folders: list[Path]) -> Path:
    """Where a file goes, without its ending. Raises `ConfigError` for other places, and for what is no name."""
    if told["folder"] not in map(str, folders):
        raise ConfigError(
            f"the folder {told['folder'][:200]!r}", "one of the folders for it", "add it in Settings"
        )
    if problem := name_problem(told["as"]):
        raise ConfigError(
            f"a file called {told['as'][:80]!r}: {problem}", "a plain name", "choose another one"
        )
    return Path(told["folder"]) / told["as"]


ACTIONS: dict[str, Act] = {
    "stop": _stop,
    "kill": _kill,
    "preview": _ask("preview"),
    "save": _ask("save"),
    "resume": _resume,
    "extend": _extend,
    "best": _best,
    "up": _up,
    "remove": _remove,
    "delete": _delete,
    "choices": _choices,
    "export": _export,
    "merge": _merge,
}
