"""A real webui with the extension in a folder of strange letters: what it lets out, what its start costs and asks for.

WEBUI_DIR=/path/to/webui WEBUI_PYTHON=/its/python WEBUI_ARGS="--use-cpu all --skip-torch-cuda-test …" pytest -m host
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

pytest.importorskip("gradio")

from ui.guard import Rules
from ui.server import application
from ui.workspace import Workspace

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[1]
MARK = "nobody-may-read-this"
"""Is in each file of the GUI's folder."""
NO_NETWORK = """
import os, socket, traceback
def refused(ours, address, real):
    host = address[0] if isinstance(address, tuple) else address
    if isinstance(host, str) and host not in ("", "127.0.0.1", "::1", "localhost", "0.0.0.0") and "/" not in host:
        with open(os.environ["RLR_ASKED"], "a") as file:
            print(host, *traceback.format_stack(), file=file)
        raise OSError("there is no network in this test")
    return real(ours, address) if ours else None
connect, resolve = socket.socket.connect, socket.getaddrinfo
socket.socket.connect = lambda self, address: refused(self, address, connect)
socket.getaddrinfo = lambda host, *a, **k: refused(None, host, None) or resolve(host, *a, **k)
"""

BROKEN = {
    "a broken one": "1 / 0",
    "another": """
from modules import script_callbacks
for name in ("on_before_ui", "on_ui_tabs", "on_ui_settings", "on_app_started"):
    getattr(script_callbacks, name)(lambda *_: 1 / 0)
""",
}
"""Other extensions that fail, while they are read and in each callback."""

CHANGES_FILES = """
from modules import script_callbacks
def changed(_, app):
    for route in app.router.routes:
        if getattr(route, "path", "").startswith("/file"):
            async def marked(scope, receive, send, real=route.app):
                async def sent(message):
                    if message["type"] == "http.response.start":
                        message = {**message, "headers": [*message["headers"], (b"x-changed", b"yes")]}
                    await send(message)
                await real(scope, receive, sent)
            route.app = marked
script_callbacks.on_app_started(changed)
"""
"""Another one, which answers in the webui's place when it is asked for a file."""


@dataclass
class Webui:
    """One that runs.

    Attributes:
        home: the GUI's folder in it.
        told: by `webui_probe.py`.
        asked: for other machines by name or address, each with the calls that led there.
        log: of its start.
    """

    home: Path
    port: int
    told: dict[str, Any]
    asked: str
    log: str

    def client(self) -> httpx.Client:
        scheme = "https" if "--tls-certfile" in os.environ.get("WEBUI_ARGS", "") else "http"
        return httpx.Client(
            base_url=f"{scheme}://127.0.0.1:{self.port}", trust_env=False, timeout=60, verify=False
        )


def folder(data: Path) -> Path:
    """The webui's data: the extension, the probe, others that are broken, and a run whose files are marked."""
    for name, code in {**BROKEN, "changes files": CHANGES_FILES}.items():
        (data / "extensions" / name / "scripts").mkdir(parents=True)
        (data / "extensions" / name / "scripts" / "broken.py").write_text(code)
    extension = data / "extensions" / "RLR für Tests"
    for name in ("extension", "scripts", "javascript"):
        shutil.copytree(ROOT / name, extension / name)
    for name in ("install.py", "uv.lock", "pyproject.toml", "style.css"):
        shutil.copy(ROOT / name, extension / name)
    (data / "extensions" / "0 probe" / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "webui_probe.py", data / "extensions" / "0 probe" / "scripts")
    run = data / "rlr" / "runs" / "run-001"
    run.mkdir(parents=True)
    for file in (
        data / "rlr" / "install.log",
        data / "rlr" / "x.json",
        run / "before.png",
        run / "config.toml",
    ):
        file.write_text(MARK)
    return data


def free_port() -> int:
    with socket.socket() as attempt:
        attempt.bind(("127.0.0.1", 0))
        return attempt.getsockname()[1]


def packages(python: str) -> str:
    listed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True)
    assert listed.returncode == 0 and listed.stdout, listed.stderr
    return listed.stdout


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webui]:
    """Started with a login, without a network; its packages are the same afterwards."""
    if "WEBUI_DIR" not in os.environ:
        pytest.skip("WEBUI_DIR does not name the host's folder")
    python, top = os.environ.get("WEBUI_PYTHON", sys.executable), tmp_path_factory.mktemp("webui")
    data, port, before = folder(top / "Wirt ü"), free_port(), packages(python)
    (top / "guard").mkdir()
    (top / "guard" / "sitecustomize.py").write_text(NO_NETWORK)
    asked, probe = top / "asked.txt", top / "probe.json"
    asked.touch()
    log = top / "webui.log"
    command = [python, "launch.py", "--data-dir", data, "--port", port, "--gradio-auth", "me:pass", "--api"]
    command += [*shlex.split(os.environ.get("WEBUI_ARGS", ""))]
    kept = {"PYTHONPATH": str(top / "guard"), "RLR_ASKED": str(asked), "RLR_PROBE": str(probe)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=os.environ["WEBUI_DIR"],
            env={**os.environ, **kept},
            stdout=out,
            stderr=out,
        )
    try:
        while not probe.exists():
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            time.sleep(0.5)
        told = json.loads(probe.read_text())
        yield Webui(data / "rlr", port, told, asked.read_text(), log.read_text(errors="replace"))
    finally:
        process.kill()
        process.wait()
    assert packages(python) == before


def routes_of_the_gui(home: Path) -> set[tuple[str, str]]:
    """Method and path of each."""
    found: set[tuple[str, str]] = set()

    def walk(routes: Any, base: str) -> None:
        for route in routes:
            path = base + (getattr(route, "path", "") or "")
            inside = getattr(route, "original_router", None) or getattr(route, "app", None)
            if methods := getattr(route, "methods", None):
                found.update((method, path) for method in methods)
            else:
                found.add(("GET", path + "/x"))
                walk(getattr(inside, "routes", ()), path)

    guard: Any = application(Workspace.open(home), Rules("a:b", ()))
    walk(guard.app.routes, "")
    return found


def test_the_tab_is_there_for_whom_the_webui_has_let_in(webui: Webui) -> None:
    with webui.client() as client:
        client.post("/login", data={"username": "me", "password": "pass"})
        answer = client.get("/rlr-gui/")
        assert answer.status_code == 200 and "Make the environment" in answer.text
        assert client.get("/rlr-gui/news").json() == {"work": [], "loras": []}
        assert "RLR" in json.dumps(client.get("/config").json()["components"])


def test_the_page_has_the_tabs_script_beside_one_that_changes_files(webui: Webui) -> None:
    script = webui.home.parent / "extensions" / "RLR für Tests" / "javascript" / "rlr.js"
    with webui.client() as client:
        client.post("/login", data={"username": "me", "password": "pass"})
        answer = client.get("/file=" + quote(str(script)))
        assert answer.headers.get("x-changed") == "yes"  # or else this says nothing of it
        assert answer.text == script.read_text(encoding="utf-8")


def test_no_route_of_the_gui_answers_a_stranger(webui: Webui, tmp_path: Path) -> None:
    routes = routes_of_the_gui(tmp_path)
    assert len(routes) > 100
    strangers = (
        {},
        {"Cookie": "access-token=x; access-token-unsecure=x"},
        {"Authorization": "Basic bWU6bm8="},
    )
    with webui.client() as client:
        for method, path in sorted(routes):
            for headers in strangers:
                answer = client.request(method, "/rlr-gui" + path, headers=headers)
                body = "" if method == "HEAD" else "RLR: log in to the webui first."
                assert (answer.status_code, answer.text) == (401, body), (method, path)
        assert client.post("/rlr-gui/make").status_code == 401


def test_no_route_of_the_webui_gives_a_file_of_the_gui(webui: Webui) -> None:
    """Each of its routes, asked for each of our files by name, with and without a login."""
    files = [file for file in webui.home.rglob("*") if file.is_file() and MARK in file.read_text()]
    routes = {(method, path) for method, path in webui.told["routes"] if not path.startswith("/rlr-gui")}
    assert len(files) == 4 and len(routes) > 30
    assert any(path.startswith("/file") for _, path in routes)
    with webui.client() as stranger, webui.client() as user:
        user.post("/login", data={"username": "me", "password": "pass"})
        for client in (stranger, user):
            for method, path in sorted(routes):
                for file in files:
                    for name in (str(file), str(file.relative_to(webui.home.parent))):
                        assert MARK not in body(client, method, path, name), (method, path, name)
        assert user.get("/config").status_code == 200  # it is there still


def body(client: httpx.Client, method: str, path: str, name: str) -> str:
    """What a route answers that is asked for a file, in its path and by the names that webuis have for it."""
    if path in ("/logout",) or "server-" in path:  # which end the session, or the webui
        return ""
    before, parameter, _ = path.partition("{")
    asked = before + quote(name, safe="/") if parameter else path
    query = {key: name for key in ("filename", "path", "file")}
    try:
        with client.stream(
            method, asked, params=query, headers={"Content-Type": "application/json"}
        ) as answer:
            first = (
                next(answer.iter_bytes(1 << 20), b"") if "event-stream" not in str(answer.headers) else b""
            )
            return first.decode(errors="replace")
    except httpx.TransportError:  # some of the webui's routes hang up on what they do not understand
        return ""


def test_others_that_fail_do_no_harm(webui: Webui) -> None:
    """They did fail in this start, or else the tests above say nothing of it."""
    assert webui.log.count("ZeroDivisionError") >= 4


def test_the_start_costs_less_than_a_second(webui: Webui) -> None:
    """The extension's installer, its script, and its callbacks."""
    ours = ("RLR", "rlr_tab.py", "/host.py")  # the callbacks are told of in `extension/host.py`
    took = {name: each for name, each in webui.told["took"].items() if any(part in name for part in ours)}
    installer, callbacks = (
        sum(each for name, each in took.items() if part in name) for part in ("installers", "callback")
    )
    script = webui.told["loaded"]["rlr_tab.py"]
    print(f"installer {installer:.2f} s, script {script:.2f} s of processor time, {took}")
    assert min(installer, callbacks, script) > 0 and installer + callbacks + script < 1


def test_the_start_asks_for_nothing(webui: Webui, tmp_path: Path) -> None:
    """The extension's folder is in none of the calls that led to another machine; one that does is seen."""
    assert "RLR" not in webui.asked and "rlr" not in webui.asked
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    kept = {**os.environ, "PYTHONPATH": str(tmp_path), "RLR_ASKED": str(tmp_path / "asked.txt")}
    code = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=1)"
    refused = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True)
    assert "there is no network in this test" in refused.stderr
    assert "192.0.2.1" in (tmp_path / "asked.txt").read_text()
