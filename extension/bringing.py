"""In RLR's environment: puts the LoRAs of runs that have ended into the host's folder, and tells the host in `news.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from rlr_core.errors import RLRError
from rlr_core.runs.listing import list_runs
from rlr_core.runs.state import RunState
from rlr_core.storage import read_bytes, write_text
from ui.doing import ACTIONS
from ui.exporting import export
from ui.workspace import Workspace

WORK = ("starting", "running", "stopping")
DONE = ("finished", "stopped", "failed", "interrupted", "damaged")
WHY = {
    "finished": "the run's folder has none: Show tells what became of it",
    "stopped": "the run was stopped before its first iteration, so there is none yet: Show, then Resume, goes on",
    "failed": "it failed: {}",
    "interrupted": "its process was ended from outside: Show, then Resume, goes on from the last checkpoint",
    "damaged": "the run cannot be read: {}",
}
"""Why a run that has ended brings no LoRA, by its state, with its message."""
NO_FOLDER = "no folder of LoRAs is set: add one on the tab's page Settings, then Export on the run's page"
KEPT = 20
"""LoRAs that are told of."""


@dataclass
class News:
    """What the host is told of the runs in a GUI's home.

    Attributes:
        work: names of runs that a process has in its hands.
        loras: those of runs that have ended, the newest first: "run", "file" in the host's folder, "prompt", and
            "problem", which says why there is none.
    """

    home: Path
    work: list[str] = field(default_factory=list)
    loras: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, home: Path) -> News:
        """As it was told last."""
        try:
            told = json.loads(read_bytes(home / "news.json", 2**20))
            return cls(home, list(told["work"]), [dict(each) for each in told["loras"]])
        except (OSError, ValueError, KeyError, TypeError):
            return cls(home)

    def look(self, bring: bool) -> bool:
        """Tell what has become of the runs; returns whether one is at work or waits. Raises `RLRError`."""
        workspace = Workspace.open(self.home)
        states = list_runs(workspace.runs)
        ended = [each for each in states if each.state in DONE and each.folder.name in self.work]
        self.work = [each.folder.name for each in states if each.state in WORK]
        if bring:
            brought = [self._bring(workspace, each) for each in ended]
            self.loras = [*brought, *self.loras][:KEPT]
        write_text(
            self.home / "news.json", json.dumps({"work": self.work, "loras": self.loras}), durable=False
        )
        return any(each.state in (*WORK, "queued") for each in states)

    def _bring(self, workspace: Workspace, state: RunState) -> dict[str, str]:
        """Export a run's LoRA under the run's name, which no other has; "problem" says why where there is none."""
        run = state.folder.name
        before = [each["file"] for each in self.loras if each["run"] == run]
        self.loras = [each for each in self.loras if each["run"] != run]
        told = {"run": run, "file": "", "prompt": "", "problem": ""}
        try:
            problem, file = _export(workspace, state, before)
        except RLRError as error:
            problem, file = str(error), None
        if (
            problem
        ):  # a file that an earlier part of the run brought is still its own, and may be replaced later
            return {**told, "file": before[0] if before else "", "problem": problem}
        return {**told, "file": str(file), "prompt": f"<lora:{run}:1>"}


def _export(workspace: Workspace, state: RunState, before: list[str]) -> tuple[str, Path | None]:
    """Why there is nothing to export, or "" and the file; one of `before` is replaced. Raises `RLRError`."""
    run, why = state.folder.name, WHY[state.state].format(state.message or "Show tells more")
    if state.state not in ("finished", "stopped"):
        return why, None
    offered = ACTIONS["choices"](workspace, run, {})
    if not offered["files"]:
        return why, None
    if not offered["folders"]:
        return NO_FOLDER, None
    file = Path(offered["folders"][0]) / f"{run}.safetensors"
    export(workspace.run(run), offered["files"][0], file, "auto", "auto", "", force=str(file) in before)
    return "", file
