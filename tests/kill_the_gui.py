"""Kill the GUI, a run's worker, or both, at random moments (SIGKILL): python tests/kill_the_gui.py --kills 30

Runs of the embedded checkpoint wait in the GUI's queue. Whatever is killed: a run that lives goes on, one that died is told
as such and goes on when Resume is pressed, and in the end every LoRA is that of the run that nobody killed, to the bit. Then
everything is killed at once, as when the power fails, with runs waiting: they are carried out when the GUI is started again.
At the end one run is told to stop, and no process may be left. Says what was killed and what was lost. POSIX only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file

from rlr_core.config import RunConfig, from_dict, load, merged, to_dict
from rlr_core.embedded import DEMO
from rlr_core.runs import start
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.queue import Queue

ROOT = Path(__file__).parent.parent
VICTIMS = ("the GUI", "the worker", "both")
PATIENCE = 300.0
"""Seconds for what takes seconds."""
NOTICED = 10.0
"""Seconds within which a worker's death is told."""
WAITING = 3
"""Runs in the queue."""


def settings(iterations: int) -> RunConfig:
    """Short, with all that a run writes."""
    own = {
        "training": {"iterations": iterations, "batch_size": 4},
        "model": {"threads": 1},
        "output": {
            "evaluation": 2,
            "previews": 1,
            "preview_every": 3,
            "checkpoint_every": 2,
            "name": "killed",
        },
    }
    return from_dict(merged(to_dict(load(DEMO)), own))


class Gui:
    """As a process of its own, which can be killed."""

    def __init__(self, home: Path, port: int):
        self.home, self.port = home, port
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["--home", str(self.home), "--port", str(self.port), "--no-browser"]
        with (self.home / "gui.log").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ui", *options], cwd=ROOT, stdout=output, stderr=output
            )
        wait("the GUI answers", self.answers)

    def answers(self) -> bool:
        """Whether it serves."""
        with suppress(OSError):
            return bool(self.ask("rlr/runs"))
        return False

    def kill(self) -> None:
        """As the system does that has no memory left."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def ask(self, path: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
        """Its answer; to a request with `values`, which does something."""
        body = None if values is None else json.dumps(values).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def states(self) -> dict[str, str]:
        """Run → state, as the list shows it."""
        return {line["name"]: line["state"] for line in self.ask("rlr/runs")["lines"]}


def wait(what: str, condition: Any, seconds: float = PATIENCE) -> None:
    """Until it is so. Raises `AssertionError` after a while."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


def workers(home: Path) -> Iterator[psutil.Process]:
    """Living processes that carry out a run of this folder."""
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if "rlr_core.runs" in line and line[-1].startswith(str(home)) and process.info["status"] != "zombie":
            yield process


def kill_workers(home: Path) -> list[str]:
    """Kill them; returns their runs."""
    killed = []
    for process in list(workers(home)):
        with suppress(psutil.NoSuchProcess):
            killed.append(Path(process.cmdline()[-1]).name)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
    return killed


@contextmanager
def served(home: Path, port: int) -> Iterator[Gui]:
    gui = Gui(home, port)
    gui.start()
    try:
        yield gui
    finally:
        gui.kill()
        kill_workers(home)


def go_on(gui: Gui) -> bool:
    """Press Resume where a run died; whether all are finished."""
    states = gui.states()
    for name, state in states.items():
        if state in ("interrupted", "failed", "stopped"):
            with suppress(urllib.error.HTTPError):  # it has just been taken up
                gui.ask(f"rlr/run/{name}/resume", {})
    return all(state == "finished" for state in states.values())


def is_told_dead(gui: Gui, name: str) -> bool:
    """Whether the list says of a run that nobody works on it."""
    return gui.states().get(name) in ("finished", "interrupted", "stopped", "failed", "queued")


def kill_randomly(gui: Gui, kills: int, drawn: random.Random) -> Counter[str]:
    """Until so many kills are done, or no run is left to be killed."""
    done: Counter[str] = Counter()
    while done.total() < kills and not go_on(gui):
        time.sleep(drawn.uniform(0, 12))
        victim = drawn.choice(VICTIMS)
        died = [] if victim == "the GUI" else kill_workers(gui.home)
        if victim != "the worker":
            gui.kill()
            gui.start()
        done[f"{victim}{'' if died or victim == 'the GUI' else ' (between two)'}"] += 1
        for name in died:
            wait(f"{name} is not told as at work", partial(is_told_dead, gui, name), NOTICED)
    return done


def lost(home: Path, wanted: dict[str, torch.Tensor]) -> list[str]:
    """The runs whose LoRA is not the one of the run that nobody killed."""
    found = []
    for folder in sorted(path.parent for path in (home / "runs").glob("*/config.toml")):
        file = folder / "killed.safetensors"
        tensors = load_file(file) if file.is_file() else {}
        same = tensors.keys() == wanted.keys() and all(
            torch.equal(tensors[name], wanted[name]) for name in wanted
        )
        if not same or RunDirectory(folder).state().state != "finished":
            found.append(folder.name)
    return found


def main() -> int:
    """Carry it out; 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=7911)
    options = parser.parse_args()
    drawn, config = random.Random(options.seed), settings(options.iterations)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "mein Ordner 画"
        home.mkdir()
        start(config, Path(folder) / "wanted")
        wanted = load_file(Path(folder) / "wanted" / "killed.safetensors")
        with served(home, options.port) as gui:
            for _ in range(WAITING):
                Queue(home / "runs").add(config)
            wait("all are listed", lambda: len(gui.states()) == WAITING)
            done = kill_randomly(gui, options.kills, drawn)
            print(f"{done.total()} kills: {dict(done)}", flush=True)
            failures = power_cut(gui, config)
            wait("all runs are finished", lambda: go_on(gui), 3600)
            failures += lost(home, wanted) + stopped(gui, settings(10_000))
    print(f"lost: {failures or 'nothing'}")
    return bool(failures)


def power_cut(gui: Gui, config: RunConfig) -> list[str]:
    """Everything is killed while one run is at work and three wait; returns those of them that are forgotten."""
    queue = Queue(gui.home / "runs")
    added = [queue.add(config) for _ in range(WAITING + 1)]
    wait("one is at work", lambda: (go_on(gui), any(workers(gui.home)))[1])
    waiting = {path.name for path in queue.waiting()}
    gui.kill()
    kill_workers(gui.home)
    gui.start()
    states = gui.states()
    forgotten = [name for name in waiting if states.get(name) not in ("queued", "running", "starting")]
    wait("the next run begins by itself", lambda: any(workers(gui.home)), 60)
    print(
        f"after a power cut with {len(waiting)} of {len(added)} new runs waiting: {gui.states()}", flush=True
    )
    return forgotten


def stopped(gui: Gui, config: RunConfig) -> list[str]:
    """Stop a run at work: its process ends and leaves no other; returns what is left."""
    name = Queue(gui.home / "runs").add(config).name
    wait("it is at work", lambda: gui.states().get(name) == "running")
    gui.ask(f"rlr/run/{name}/stop", {})
    wait("it has stopped", lambda: gui.states().get(name) == "stopped")
    left: list[str] = []
    with suppress(AssertionError):
        wait("its process has ended", lambda: not any(workers(gui.home)), 30)
        return left
    return [f"process {process.pid}" for process in workers(gui.home)]


if __name__ == "__main__":
    sys.exit(main())
