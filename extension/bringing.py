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
DONE = ("finished", "stopped")
KEPT = 20
"""LoRAs that are told of."""


@dataclass
class News:
    """What the host is told of the runs in a GUI's home.

    Attributes:
        work: names of runs that a process has in its hands.
        loras: those that were put into the host's folder, the newest first: "run", "file", "prompt", and "problem" of
            one that could not be.
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
            self.loras = [*(lora for each in ended if (lora := self._bring(workspace, each))), *self.loras][
                :KEPT
            ]
        write_text(
            self.home / "news.json", json.dumps({"work": self.work, "loras": self.loras}), durable=False
        )
        return any(each.state in (*WORK, "queued") for each in states)

    def _bring(self, workspace: Workspace, state: RunState) -> dict[str, str] | None:
        """Export a run's LoRA under the run's name, which no other has; None where it has none."""
        run = state.folder.name
        offered = ACTIONS["choices"](workspace, run, {})
        if not offered["files"] or not offered["folders"]:
            return None
        file = Path(offered["folders"][0]) / f"{run}.safetensors"
        ours = any(each["run"] == run and each["file"] == str(file) for each in self.loras)
        self.loras = [each for each in self.loras if each["run"] != run]
        told = {"run": run, "file": str(file), "prompt": f"<lora:{run}:1>", "problem": ""}
        try:
            export(workspace.run(run), offered["files"][0], file, "auto", "auto", "", force=ours)
        except RLRError as error:
            return {**told, "prompt": "", "problem": str(error)}
        return told
