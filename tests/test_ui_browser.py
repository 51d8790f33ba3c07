"""The GUI as a newcomer uses it, in a real browser: train, lose the browser and the GUI on the way, export, compare.

Chromium is Debian's, or Playwright's own where there is none.

`RLR_UI_PICTURES=FOLDER` keeps what the pages looked like.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from browsers import chromium

from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.state import RunState

pytest.importorskip("diffusers")
pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

ROOT = Path(__file__).parent.parent
PATIENCE = 240_000
"""Milliseconds that a busy machine may take for what takes seconds."""
LONG = 1_500_000
"""That a whole training may take, which takes four minutes on two free cores."""
IGNORED = {"scrollable-region-focusable"}
"""Findings in what Gradio alone makes."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        found = chromium(p)
        yield found
        found.close()


def _port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Gui:
    """The GUI as a process, which can be killed and started again at the same address."""

    def __init__(self, home: Path):
        self.home, self.port = home, _port()
        self.address = f"http://127.0.0.1:{self.port}/"
        self.log = (home / "gui.log").open("ab")
        self.began = time.monotonic()
        self.start()

    def start(self) -> None:
        arguments = [
            sys.executable,
            "-m",
            "ui",
            "--home",
            str(self.home),
            "--port",
            str(self.port),
            "--no-browser",
        ]
        self.process = subprocess.Popen(arguments, cwd=ROOT, stdout=self.log, stderr=self.log)
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(self.address, timeout=2):
                return
            assert self.process.poll() is None, (self.home / "gui.log").read_text(encoding="utf-8")
            time.sleep(0.2)
        raise AssertionError("the GUI does not answer")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def gui(tmp_path) -> Iterator[Gui]:
    home = tmp_path / "mein Ordner für 画"
    home.mkdir()
    started = Gui(home)
    yield started
    started.kill()
    started.log.close()
    for run in (home / "runs").glob("*"):
        worker = RunDirectory(run).worker
        if worker and worker.lives:
            psutil.Process(worker.pid).kill()


@contextmanager
def page(browser: Any, gui: Gui, place: str = "", **options: Any) -> Iterator[Any]:
    """A page in a browser of its own, in which nothing may go wrong without our noticing."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, **options)
    context.set_default_timeout(PATIENCE)
    opened, wrong = context.new_page(), []
    opened.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(gui.address + place)
    opened.wait_for_selector("#rail a[aria-current]")
    yield opened
    context.close()
    gone = ("ERR_CONNECTION", "status of 503")  # while the GUI is killed, or a webui starts it again
    wrong = [told for told in wrong if not any(each in told for each in gone)]
    assert not wrong, wrong


def picture(shown: Any, name: str) -> None:
    if folder := os.environ.get("RLR_UI_PICTURES"):
        shown.screenshot(path=Path(folder) / f"{name}.png")


def accessible(shown: Any) -> None:
    """No serious finding of axe-core: names, roles, contrast; at rest, as what is half faded in has half its contrast."""
    shown.wait_for_function("document.getAnimations().every((one) => !(one instanceof CSSTransition))")
    found = axe.Axe().run(shown).response["violations"]
    serious = [
        each for each in found if each["impact"] in ("serious", "critical") and each["id"] not in IGNORED
    ]
    told = [(each["id"], [node["html"][:160] for node in each["nodes"][:3]]) for each in serious]
    assert not told, told


def the_run(gui: Gui) -> RunState:
    (config,) = (gui.home / "runs").glob("*/config.toml")
    return RunDirectory(config.parent).state()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_the_first_page_to_a_comparison(browser, gui):
    with page(browser, gui) as shown:
        accessible(shown)
        picture(shown, "train")
        shown.click("#train-button")  # with nothing changed
        shown.wait_for_selector(".run-head")
        shown.wait_for_selector(".pairs img")
        print(f"first preview {time.monotonic() - gui.began:.0f} s after the GUI's start")
        run = parse_qs(urlsplit(shown.url).query)["run"][0]
    with page(browser, gui, f"runs/{run}") as shown:  # another browser, by the run's address
        shown.wait_for_selector(".pairs img")
        shown.wait_for_selector(".chart polyline")
        accessible(shown)
        picture(shown, "training")
        gui.kill()
        shown.wait_for_selector("#offline")
        assert "goes on without it" in shown.text_content("#offline")
        shown.close()
        gui.start()
    with page(browser, gui, f"runs/{run}") as shown:
        before = the_run(gui).iteration
        shown.wait_for_selector(".run-head .state.blue")
        wait_until(lambda: the_run(gui).iteration > before)  # it goes on
        shown.wait_for_selector(".run-head .state.green", timeout=LONG)
        shown.wait_for_selector(".chart polyline")
        picture(shown, "run")
        accessible(shown)
        assert shown.text_content(".answer").startswith("The pictures got better")
        shown.click("text=Export…")
        shown.fill("dialog input[name=as]", "mine")
        accessible(shown)
        shown.click("dialog button.primary")
        shown.wait_for_selector("#toast.shown:has-text('Written')")
        assert (gui.home / "models" / "loras" / "mine.safetensors").is_file()
        shown.click("button[data-action=compare]")
        shown.wait_for_selector("body[data-page=compare]")
        shown.wait_for_function("document.querySelector('#compare-prompts').value")  # the run's own
        shown.fill("#compare-pictures", "1")
        shown.click("#compare button[type=submit]")
        shown.wait_for_function("document.querySelectorAll('#compare .results img').length >= 2")
        shown.wait_for_function(
            "[...document.querySelectorAll('#compare .results img')].every((one) => one.naturalWidth)"
        )
        accessible(shown)
        picture(shown, "compare")
    for width, scheme in ((1440, "dark"), (390, "light"), (390, "dark")):
        with page(browser, gui, f"runs/{run}", color_scheme=scheme) as shown:
            shown.set_viewport_size({"width": width, "height": 1000})
            shown.wait_for_selector(".chart polyline")
            accessible(shown)
            picture(shown, f"run-{width}-{scheme}")
    assert the_run(gui).state == "finished"


@pytest.mark.parametrize("width", [390, 1440])
def test_without_runs_the_page_says_how_to_begin(width, browser, gui):
    """On a phone, too, where list and run take turns."""
    with page(browser, gui, "?view=runs") as shown:
        shown.set_viewport_size({"width": width, "height": 900})
        shown.get_by_role("heading", name="No runs yet").wait_for()
        shown.get_by_role("button", name="Train on my checkpoint").click()
        shown.get_by_role("heading", name="Train", exact=True).wait_for()


def test_a_page_says_what_stands_in_front_of_the_server_and_comes_back_by_itself(browser, gui):
    """A webui answers in plain words while it starts the GUI again."""
    with page(browser, gui, "?view=runs") as shown:
        shown.wait_for_selector("text=No runs yet")
        starting = {"status": 503, "content_type": "text/plain; charset=utf-8", "body": "RLR is starting …"}
        shown.route("**/rlr/runs*", lambda route: route.fulfill(**starting))
        shown.wait_for_selector("#offline:has-text('RLR is starting …')")
        shown.unroute("**/rlr/runs*")
        shown.wait_for_selector("#offline", state="detached")


def test_what_was_written_is_there_after_a_reload(browser, gui):
    """Also when the GUI was started anew in between."""
    with page(browser, gui) as shown:
        shown.get_by_label("Prompts").first.fill("a red cat\na blue dog")
        shown.get_by_label("Iterations").fill("7")
        shown.get_by_label("A prompt per stage").check()
        shown.get_by_label("Fine: the detail").fill("fur\nwet fur")
        for _ in range(2):
            wait_until(
                lambda: shown.evaluate("Object.keys(localStorage).some((k) => k.startsWith('rlr-draft'))")
            )
            gui.kill()
            gui.start()
            shown.reload()
            shown.wait_for_selector("text=As you left it")
            assert shown.get_by_label("Coarse: the layout").input_value() == "a red cat\na blue dog"
            assert shown.get_by_label("Fine: the detail").input_value() == "fur\nwet fur"
            assert shown.get_by_label("Iterations").input_value() == "7"
        shown.click("text=Start afresh")
        shown.wait_for_selector("#rail a[aria-current]")
        shown.wait_for_function(
            "![...document.querySelectorAll('p')].some((p) => p.textContent.startsWith('As you left'))"
        )
        assert shown.get_by_label("Prompts").first.input_value() == ""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light"), (2560, "dark")])
def test_every_page_fits_its_window(browser, tmp_path_factory, width, scheme):
    home = tmp_path_factory.mktemp("home")
    gui = Gui(home)
    try:
        with page(browser, gui, color_scheme=scheme) as shown:
            shown.set_viewport_size({"width": width, "height": 900})
            for name in ("train", "runs", "compare", "score", "settings"):
                shown.click(f"#rail nav a[data-page={name}]")
                shown.wait_for_selector(f"body[data-page={name}]")
                time.sleep(0.3)
                wide = shown.evaluate(
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                )
                assert wide <= 0, f"{name} is {wide} px too wide"
                accessible(shown)
                picture(shown, f"{name}-{width}-{scheme}")
    finally:
        gui.kill()
        gui.log.close()
