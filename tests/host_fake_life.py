"""For `host_fake_webui.py`: the extension from a folder with strange letters, and a process of a few lines for the GUI."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
from fastapi import FastAPI
from fastapi.testclient import TestClient
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
FULL = """
if Path(__file__).with_name("full").exists():
    shutil.disk_usage = lambda _, usage=shutil.disk_usage("."): usage._replace(free=10**8)
ROOT = Path("""
SERVING = """
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
home, port, prefix = sys.argv[1:]
if Path(home, "broken").exists():
    sys.exit("No module named 'torch'")
with Path(home, "starts").open("a") as file:
    print(os.getpid(), file=file)
class Gui(BaseHTTPRequestHandler):
    def log_message(self, *_): ...
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "7"); self.end_headers(); self.wfile.write(b"the GUI")
ThreadingHTTPServer(("127.0.0.1", int(port)), Gui).serve_forever()
"""


def copied(root: Path) -> Path:
    """The extension there; a file "full" beside its installer fills the disk."""
    shutil.copytree(ROOT / "extension", root / "extension")
    for name in ("scripts/rlr_tab.py", "install.py", "uv.lock", "pyproject.toml"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "extension" / "serving.py").write_text(SERVING, encoding="utf-8")
    installer = (root / "install.py").read_text(encoding="utf-8")
    (root / "install.py").write_text(installer.replace("\nROOT = Path(", FULL, 1), encoding="utf-8")
    return root


def life(home: Path, tab: Any, gui: Any, shim: Path, callbacks: dict[str, Any]) -> dict[str, Any]:
    """What the tab shows while things go wrong, then right, then wrong again; and through three reloads of the UI."""
    found: dict[str, Any] = {}
    installer = gui.installer()

    def ask(name: str, method: str = "GET") -> None:
        """As a page does that is new: after "Reload UI" there is another app."""
        app: Any = FastAPI()
        app.auth = None
        callbacks["app_started"](types.SimpleNamespace(blocked_paths=[]), app)
        path = "/rlr-gui/make" if method == "POST" else "/rlr-gui/"
        with TestClient(app, base_url="http://localhost") as client:
            answer = client.request(method, path)
            while tab.companion().gui.installing() or "http-equiv" in answer.text:
                time.sleep(0.1)
                answer = client.get("/rlr-gui/")
        found[name] = [answer.status_code, answer.text]

    installer.PYTHON.parent.mkdir(parents=True)
    installer.PYTHON.touch()
    ask("half made")
    (installer.ROOT / "full").touch()
    ask("no room for the environment", "POST")
    (home / "install.log").unlink()
    (home / "install.log").mkdir()
    ask("no room for its log", "POST")
    (home / "install.log").rmdir()

    installer.PYTHON = Path(sys.executable)
    installer.write_stamp(developer=False)
    (home / "rlr-ui.toml").mkdir()  # which cannot be written then; as little as `gui.json` below
    (home / "gui.json.new").mkdir()
    ask("no room for the GUI's state")
    _, alive = psutil.wait_procs(psutil.Process().children(), timeout=5)
    found["left behind"] = len(alive)
    (home / "gui.json.new").rmdir()
    (home / "rlr-ui.toml").rmdir()

    for name in ("started", "reloaded", "reloaded twice"):
        runpy.run_path(str(shim))
        found[f"tabs, {name}"] = len(callbacks["ui_tabs"]())
        ask(name)
    found["starts"] = len((home / "starts").read_text().split())
    found["threads"] = sum(each.name == "rlr-companion" for each in threading.enumerate())

    found["while it starts again"] = open_page(home, callbacks)
    found["another at its port, page open"] = another_at_its_port(home, callbacks, is_open=True)
    found["another at its port, page new"] = another_at_its_port(home, callbacks, is_open=False)
    stop(home)
    sockets, gui.socket = gui.socket, types.SimpleNamespace(socket=no_port)
    ask("no port is free")
    gui.socket = sockets
    (home / "broken").touch()
    ask("damaged environment")
    (home / "broken").unlink()
    with FileLock(str(home / "gui.lock")):
        gui.PATIENCE = 0.2
        ask("another webui starts it")
    return found


def open_page(home: Path, callbacks: dict[str, Any]) -> list[list[Any]]:
    """What a page's script is told that goes on asking, from the GUI's end until it is there again."""
    app: Any = FastAPI()
    app.auth = None
    callbacks["app_started"](types.SimpleNamespace(blocked_paths=[]), app)
    sys.modules["rlr_webui_extension.gateway"].MOMENT = 0.05
    found: list[list[Any]] = []
    with TestClient(app, base_url="http://localhost") as client:
        client.get("/rlr-gui/")
        stop(home)
        while not found or (found[-1][0] != 200 and len(found) < 100):
            answer = client.get("/rlr-gui/rlr/runs")
            found.append([answer.status_code, answer.headers.get("content-type", ""), answer.text])
    return found


def another_at_its_port(home: Path, callbacks: dict[str, Any], is_open: bool) -> list[Any]:
    """What a page shows once the GUI has ended and another program, which answers everything, has its port."""
    app: Any = FastAPI()
    app.auth = None
    callbacks["app_started"](types.SimpleNamespace(blocked_paths=[]), app)
    with TestClient(app, base_url="http://localhost") as client:
        if is_open:
            client.get("/rlr-gui/")
        stop(home)
        with another(json.loads((home / "gui.json").read_text())["port"]):
            answer = client.get("/rlr-gui/")
            while "http-equiv" in answer.text:
                time.sleep(0.1)
                answer = client.get("/rlr-gui/")
    return [answer.status_code, answer.text]


@contextmanager
def another(port: int) -> Iterator[None]:
    """Another program at a port."""

    class Another(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "16")
            self.end_headers()
            self.wfile.write(b"another program.")

    server = ThreadingHTTPServer(("127.0.0.1", port), Another)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


def no_port() -> Any:
    """As `socket.socket` where each port has its program."""
    raise OSError(98, "Address already in use")


def stop(home: Path) -> None:
    """End the process that was started."""
    starts = (home / "starts").read_text().split() if (home / "starts").exists() else []
    for each in psutil.Process().children():
        if str(each.pid) in starts:
            each.kill()
            each.wait()
