"""Every address that the GUI serves, its own and Gradio's, is asked with what nobody should send: it refuses, and goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")
testclient = pytest.importorskip("fastapi.testclient")

from ui.guard import Rules  # noqa: E402
from ui.server import application  # noqa: E402
from ui.workspace import Workspace  # noqa: E402

SECRET = "not for anybody 4711"
NAMES = (
    "..", "../../secret.txt", "..%2F..%2Fsecret.txt", "/etc/passwd", "%2Fetc%2Fpasswd", "C:\\Windows\\win.ini", "CON",
    "\\\\host\\share", "a" * 3000, "\u202etxt.exe", "%00", "💥", "-rf", "~root", "file:///etc/passwd", "http://127.0.0.1:1/",
)  # fmt: skip
BODIES = (
    b"", b"{", b"[1]", b'"x"', b"null", b"\xff\xfe", b"[" * 50_000, b'{"a":' * 1000, b"1e999",
    b'{"data": [[[]]], "fn_index": -1}',
    b'{"data": null, "fn_index": 99999, "session_hash": {"a": 1}}',
    b'{"data": ["../../secret.txt"], "fn_index": 0, "session_hash": "x"}',
    b'{"file": "../../secret.txt", "folder": "/etc", "as": "../x", "iterations": 1e999}',
)  # fmt: skip
STREAMS = (
    "/rlr/demo",
    "/heartbeat/",
    "/queue/data",
    "/startup-events",
    "/stream/",
    "/login",
    "/logout",
    "/dev/reload",
)
"""Parts of addresses that answer for as long as somebody listens, do nothing here, or start a training whoever asks."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("hostile") / "home"
    home.mkdir()
    (home.parent / "secret.txt").write_text(SECRET, encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def client(home) -> Iterator[Any]:
    guarded = application(Workspace.open(home), Rules())
    with testclient.TestClient(
        guarded, base_url="http://127.0.0.1:7866", raise_server_exceptions=False
    ) as client:
        client.app_routes = sorted(set(_routes(guarded.app)))
        yield client


def _routes(app: Any, below: str = "") -> Iterator[tuple[str, str]]:
    """(Method, path) of all that is served, with what is mounted."""
    for route in app.routes:
        path = below + getattr(route, "path", "")
        if hasattr(route, "methods"):
            yield from ((method, path) for method in route.methods or ())
        for within in ("app", "original_router"):  # what is mounted, and what a router was included for
            if hasattr(getattr(route, within, None), "routes"):
                yield from _routes(getattr(route, within), path)


def _asked(client: Any) -> list[tuple[str, str]]:
    routes = [(m, p) for m, p in client.app_routes if not any(part in p for part in STREAMS)]
    assert len(routes) > 60 and any("gradio_api/file" in path for _, path in routes), "not all are found"
    return routes


def _is_alive(client: Any) -> None:
    assert client.get("/rlr/runs").status_code == 200


def test_hostile_names(client, home):
    told = []
    for method, path in _asked(client):
        if "{" not in path:
            continue
        for name in NAMES:
            got = client.request(method, re.sub(r"\{[^}]*\}", lambda _, name=name: name, path))
            assert SECRET not in got.text and "root:x" not in got.text and "[fonts]" not in got.text, path
            if got.status_code >= 500:
                told.append((method, path, name[:20], got.text[:80]))
    assert not told, told
    assert {path.name for path in home.iterdir()} <= {"rlr-ui.toml", "runs", "models"}
    _is_alive(client)


def test_hostile_bodies(client, home):
    told = []
    for method, path in _asked(client):
        if method != "POST":
            continue
        address = re.sub(r"\{[^}]*\}", "x", path)
        for body in BODIES:
            got = client.post(address, content=body, headers={"content-type": "application/json"})
            assert SECRET not in got.text, path
            if got.status_code >= 500:
                told.append((path, body[:30], got.text[:80]))
    assert not told, told
    _is_alive(client)


def test_more_than_is_taken(client):
    for method, path in _asked(client):
        if method == "POST":
            address = re.sub(r"\{[^}]*\}", "x", path)
            got = client.post(address, content=b"1", headers={"content-length": str(10**12)})
            assert got.status_code == 413, path
    _is_alive(client)


def test_two_hundred_at_once(client):
    addresses = [re.sub(r"\{[^}]*\}", "x", path) for method, path in _asked(client) if method == "GET"]

    def ask(number: int) -> int:
        return client.get(addresses[number % len(addresses)]).status_code

    with ThreadPoolExecutor(50) as pool:
        told = list(pool.map(ask, range(200)))
    assert max(told) < 500, sorted(set(told))
    _is_alive(client)


def test_nothing_of_gradio_can_be_called_by_name(client):
    told = client.get("/gradio_api/info").json()
    assert not told["named_endpoints"], list(told["named_endpoints"])
