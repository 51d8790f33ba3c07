"""A thousand runs, one of ten thousand iterations at work, five browsers: python tests/soak_the_gui.py --minutes 60

Says what a page weighs and how long it takes to load, to change to another page, and to show what has come; and how much memory
the GUI takes over time. The seconds are of the machine that it runs on, which is to do nothing else; `--pollers` asks without
browsers, so that memory can be watched on a busy one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from kill_the_gui import Gui
from many_runs import evaluation, event, iteration, make_run, write_log
from PIL import Image

from rlr_core.config import RunConfig, from_dict, to_toml
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.worker import Worker

FINISHED, ITERATIONS, DONE = 1000, 10_000, 9_000
PREVIEW_EVERY = 10
PERIOD = 2.0
"""Seconds between two iterations of the run at work."""
PAGES = ("runs", "compare", "score", "settings", "train")
PROMPTS = ["a small red house by the sea", "hands that hold a cup", "a street at night", "a portrait"]


class AtWork:
    """A run whose log grows, as the worker's does; this process is its worker."""

    def __init__(self, folder: Path):
        self.directory, self.sequence, self.done = RunDirectory(folder), 0, 0
        folder.mkdir(parents=True)
        config = from_dict(
            {"training": {"iterations": ITERATIONS}, "output": {"preview_every": PREVIEW_EVERY}}
        )
        self.directory.config_file.write_text(to_toml(config, comments=False), encoding="utf-8")
        (folder / "previews").mkdir()
        Image.radial_gradient("L").resize((1024, 256)).convert("RGB").save(folder / "picture.png")
        self._add([evaluation(1, "before", 0)])
        self._add(each for _ in range(DONE) for each in self._next())
        self.directory.keep_overview()

    def _next(self) -> Iterator[dict[str, Any]]:
        self.done += 1
        yield iteration(self.sequence + 1, self.done)
        if self.done % PREVIEW_EVERY == 0:
            name = f"previews/{self.done:06d}.png"
            shutil.copyfile(self.directory.folder / "picture.png", self.directory.folder / name)
            seeds = list(range(len(PROMPTS)))
            yield event(
                self.sequence + 1, "preview", file=name, iteration=self.done, prompts=PROMPTS, seeds=seeds
            )
            yield evaluation(self.sequence + 1, "during", self.done)
            yield event(self.sequence + 1, "checkpoint", iteration=self.done)

    def _add(self, told: Any) -> None:
        def counted() -> Iterator[dict[str, Any]]:
            for each in told:
                self.sequence += 1
                yield {**each, "seq": self.sequence}

        write_log(self.directory.events_file, counted())

    def work(self, ended: threading.Event) -> None:
        """One iteration after another."""
        while not ended.wait(PERIOD):
            self._add(self._next())
            if self.done % PREVIEW_EVERY == 0:
                self.directory.keep_overview()  # as at every checkpoint


@contextmanager
def at_work(folder: Path) -> Iterator[AtWork]:
    run, ended = AtWork(folder), threading.Event()
    with run.directory.held():
        Worker.of(works=True).write(run.directory.worker_file)
        worker = threading.Thread(target=run.work, args=(ended,), daemon=True)
        worker.start()
        yield run
        ended.set()
        worker.join()


# -- Browsers ---------------------------------------------------------------------------------------------------


def seconds(act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def told(what: str, taken: list[float], unit: str = "s") -> None:
    ordered = sorted(taken)
    print(
        f"  {what + ':':44}{statistics.median(ordered):8.3f} {unit} (median of {len(ordered)}; {ordered[-1]:.3f} at most)",
        flush=True,
    )


def look(gui: Gui, run: AtWork, rounds: int) -> None:
    """Open the page of the run at work, change pages, and wait for what comes."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        weight: list[int] = []
        page.on("requestfinished", lambda request: weight.append(_bytes(request)))
        address = f"http://127.0.0.1:{gui.port}/"

        def load() -> None:
            page.goto(f"{address}?view=runs&run={run.directory.folder.name}")
            page.wait_for_selector(".run-head")
            page.wait_for_selector(".chart polyline")

        first = seconds(load)
        print(f"  {'first load, nothing kept by the browser:':44}{first:8.3f} s, {sum(weight) / 1e6:.2f} MB")
        weight.clear()
        told("load", [seconds(load) for _ in range(rounds)])
        print(f"  {'weight of a later load:':44}{sum(weight) / rounds / 1e6:8.3f} MB")
        weight.clear()
        told(
            "another page",
            [seconds(lambda name=name: _turn(page, name)) for _ in range(rounds) for name in PAGES],
        )
        _turn(page, "runs")
        weight.clear()
        told("what has come is shown after", [_shown(page, run) for _ in range(rounds)])
        print(f"  {'weight of each second of looking:':44}{sum(weight) / rounds / PERIOD / 1e3:8.1f} kB")
        answers = [
            seconds(lambda: gui.ask(f"rlr/run/{run.directory.folder.name}?width=1100")) for _ in range(rounds)
        ]
        told("an update, all pieces of it", answers)
        browser.close()


def _bytes(request: Any) -> int:
    with suppress(Exception):  # an answer from the browser's own memory has no size
        sizes = request.sizes()
        return sizes["responseBodySize"] + sizes["responseHeadersSize"]
    return 0


def _turn(page: Any, name: str) -> None:
    page.click(f"#rail nav a[data-page={name}]")
    page.wait_for_selector(f"body[data-page={name}]")
    page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")


def _shown(page: Any, run: AtWork) -> float:
    """Seconds from an event in the log until the page tells it."""
    before = run.done
    while run.done == before:
        time.sleep(0.01)
    began, wanted = time.perf_counter(), run.done
    page.wait_for_function(f"document.querySelector('.run-head').textContent.includes('{wanted}')")
    return time.perf_counter() - began


# -- Memory -----------------------------------------------------------------------------------------------------


def poll(gui: Gui, run: AtWork, width: int, ended: threading.Event) -> None:
    """Ask as a page does."""
    marks: dict[str, str] = {}
    while not ended.wait(1.0):
        with suppress(OSError):
            gui.ask("rlr/runs")
            answer = gui.ask(
                f"rlr/run/{run.directory.folder.name}?width={width}&seen={','.join(marks.values())}"
            )
            marks = answer["marks"]


@contextmanager
def browsers(gui: Gui, run: AtWork, count: int, *, real: bool) -> Iterator[None]:
    """So many that look at the run all the time."""
    ended = threading.Event()
    if real:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as p:
            opened = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for number in range(count):
                page = opened.new_context(viewport={"width": 1000 + 100 * number, "height": 900}).new_page()
                page.goto(f"http://127.0.0.1:{gui.port}/?view=runs&run={run.directory.folder.name}")
            yield
            opened.close()
        return
    threads = [
        threading.Thread(target=poll, args=(gui, run, 600 + 100 * number, ended), daemon=True)
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    yield
    ended.set()


def watch_memory(gui: Gui, minutes: float) -> None:
    """Every tenth of the time."""
    assert gui.process
    server, sizes = psutil.Process(gui.process.pid), []
    for part in range(11):
        if part:
            time.sleep(minutes * 6)
        sizes.append(server.memory_info().rss / 2**20)
        print(f"  after {part * minutes / 10:5.1f} min {sizes[-1]:8.1f} MiB", flush=True)
    growth = (sizes[-1] - sizes[3]) / (0.7 * minutes / 60) if minutes else 0.0
    print(f"  growth over the last seven tenths: {growth:+.1f} MiB an hour")


def main() -> None:
    """Carry it out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="to watch the memory")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--browsers", type=int, default=5)
    parser.add_argument("--pollers", action="store_true", help="ask as browsers do, without them")
    parser.add_argument("--port", type=int, default=7912)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        config = to_toml(RunConfig(), comments=False)
        for number in range(FINISHED):
            make_run(home / "runs" / f"run-{number:04d}", 100, config)
        gui = Gui(home, options.port)
        with at_work(home / "runs" / "live-001") as run:
            print(f"{FINISHED} finished runs, one at iteration {run.done} of {ITERATIONS}", flush=True)
            gui.start()
            try:
                if options.rounds:
                    look(gui, run, options.rounds)
                print(
                    f"{options.browsers} {'pollers' if options.pollers else 'browsers'}, memory of the GUI:"
                )
                with browsers(gui, run, options.browsers, real=not options.pollers):
                    watch_memory(gui, options.minutes)
                print(json.dumps({"log": run.directory.events_file.stat().st_size}))
            finally:
                gui.kill()


if __name__ == "__main__":
    main()
