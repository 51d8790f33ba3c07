"""The GUI and the runs' workers as processes: two GUIs on one folder, and whatever of them is killed.

`kill_the_gui.py` does the second at random, as often as one likes.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import closing, suppress

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("gradio")

from kill_the_gui import Gui, kill_workers, settings, wait, workers

from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.queue import Queue

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.name == "nt", reason="SIGKILL"),
]


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "mein Ordner für 画"
    home.mkdir()
    return home


@pytest.fixture
def guis(home):
    """Two, at addresses of their own, on one folder."""
    made = []
    for _ in range(2):
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            made.append(Gui(home, free.getsockname()[1]))
    for gui in made:
        gui.start()
    yield made
    for gui in made:
        gui.kill()
    kill_workers(home)


def test_two_guis_on_one_folder(guis, home):
    one, other = guis
    most, ended = [], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            with suppress(OSError):
                one.ask("rlr/runs")
                told = other.states().values()
                most.append(sum(state in ("starting", "running") for state in told))

    queue, names = Queue(home / "runs"), []
    for iterations in (4, 4, 10_000):
        names.append(queue.add(settings(iterations)).name)
    watching = threading.Thread(target=watch)
    watching.start()
    wait(
        "both show all runs",
        lambda: one.states().keys() == other.states().keys() == set(names),
    )
    wait("the last one is at work", lambda: other.states().get(names[2]) == "running", 400)
    other.ask(f"rlr/run/{names[2]}/stop", {})
    wait("it has stopped", lambda: one.states().get(names[2]) == "stopped")
    ended.set()
    watching.join()
    assert one.states() == {names[0]: "finished", names[1]: "finished", names[2]: "stopped"}
    assert max(most) == 1, "two runs at work"
    wait("no process is left", lambda: not any(workers(home)), 30)


def test_what_is_killed_is_told_and_goes_on(guis, home):
    gui = guis[0]
    queue = Queue(home / "runs")
    first, second = (queue.add(settings(30)) for _ in range(2))
    wait("the first is at work", lambda: gui.states().get(first.name) == "running")
    gui.kill()
    before = RunDirectory(first).state().iteration
    wait("it goes on without the GUI", lambda: RunDirectory(first).state().iteration > before)
    gui.start()
    assert gui.states()[first.name] == "running"
    assert kill_workers(home) == [first.name]
    wait("it is told as died", lambda: gui.states().get(first.name) == "interrupted", 10)
    wait("the next one begins", lambda: gui.states().get(second.name) in ("starting", "running"), 60)
    gui.ask(f"rlr/run/{first.name}/resume", {})
    assert gui.ask(f"rlr/run/{first.name}")["state"] in ("queued", "starting", "running")
    gui.kill()
    kill_workers(home)
    time.sleep(0.5)
    gui.start()
    wait("the one that waited begins by itself", lambda: any(workers(home)), 60)
    gui.ask(f"rlr/run/{second.name}/resume", {})
    wait("both are finished", lambda: set(gui.states().values()) == {"finished"}, 400)
