"""In RLR's environment: puts the LoRAs of runs that have ended into the host's folder, and tells the host in `news.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from rlr_core.errors import RLRError, StorageError
from rlr_core.runs.listing import list_runs
from rlr_core.runs.state import RunState
from rlr_core.storage import read_bytes, write_text
from ui.doing import ACTIONS
from ui.exporting import export
from ui.workspace import Workspace

WORK = ("starting", "running", "stopping")
DONE = ("finished", "stopped")
BROKEN = {"failed": "failed", "interrupted": "was interrupted", "damaged": "is damaged"}
"""How a run may end without a result, and how that is said."""
EXPORT = "Export on the run's page puts it there later, or under another name"
RESUME = "Resume on its page goes on"
DEMO = "It is for RLR's built-in demo checkpoint alone, which this webui cannot load: its pictures are on the run's page."
NO_FOLDER = "no LoRA folder is set; add one on Settings, then Export on the run's page puts it there"
KEPT = 20
"""LoRAs that are told of."""


@dataclass
class News:
    """What the host is told of the runs in a GUI's home.

    Attributes:
        work: names of runs that a process has in its hands.
        loras: those that were put into the host's folder, the newest first: "run", "file", "prompt", and a "note" where it
            needs one; of a run that brought none "problem", and "file" where an earlier one of its own is there.
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
        ended = [each for each in states if each.state in (*DONE, *BROKEN) and each.folder.name in self.work]
        self.work = [each.folder.name for each in states if each.state in WORK]
        for each in ended:
            if bring or each.state in BROKEN:
                self._tell(self._bring(workspace, each))
        write_text(
            self.home / "news.json", json.dumps({"work": self.work, "loras": self.loras}), durable=False
        )
        return any(each.state in (*WORK, "queued") for each in states)

    def _tell(self, lora: dict[str, str]) -> None:
        """Put it before the others, in the place of what was told of its run."""
        self.loras = [lora, *(each for each in self.loras if each["run"] != lora["run"])][:KEPT]

    def _bring(self, workspace: Workspace, state: RunState) -> dict[str, str]:
        """Export a run's LoRA under the run's name, which no other has; returns what is told of it."""
        run = state.folder.name
        ours = next((each["file"] for each in self.loras if each["run"] == run), "")
        none = {"run": run, "file": ours, "prompt": ""}
        try:
            if problem := _problem(state):
                return {**none, "problem": problem}
            offered = ACTIONS["choices"](workspace, run, {})
            if not offered["files"] or not offered["folders"]:
                return {**none, "problem": _missing(state) if offered["folders"] else NO_FOLDER}
            file = Path(offered["folders"][0]) / f"{run}.safetensors"
            export(workspace.run(run), offered["files"][0], file, "auto", "auto", "", force=str(file) == ours)
        except StorageError as error:  # whose advice is for a run that goes on
            return {**none, "problem": f"{error.parts[0]}; {EXPORT}"}
        except RLRError as error:
            return {**none, "problem": f"{error.parts[0]}; {error.parts[2]}"}
        brought = {"run": run, "file": str(file), "prompt": f"<lora:{run}:1>", "problem": ""}
        demo = workspace.run(run).config.model.checkpoint == "embedded"
        return {**brought, "note": DEMO} if demo else brought


def _problem(state: RunState) -> str:
    """Why a run has no result; "" where it has one, or was only stopped."""
    if state.state not in BROKEN:
        return ""
    lines = state.message.strip().splitlines() or ["its process is gone"]
    told = lines[-1] if lines[0].startswith("Traceback") else "; ".join(map(str.strip, lines))
    goes_on = f"; {RESUME}" if state.state == "interrupted" else ""
    return f"the run {BROKEN[state.state]}: {told}{goes_on}"


def _missing(state: RunState) -> str:
    """Why a run that ended as it should has no file."""
    if state.iteration:
        return "the run's folder has no LoRA file; the log on its page says why"
    return "the run was stopped before its first iteration was done, so there is none yet; " + RESUME
