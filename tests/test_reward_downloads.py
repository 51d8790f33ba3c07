"""`rlr rewards`: what it lists, and downloads from a hub that runs in the test."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from rlr_core.cli import main
from rlr_core.rewards import PUBLISHED

CONTENT = bytes(range(256)) * 160_000
"""Forty megabytes of a "model.safetensors": huggingface_hub writes ten at a time."""


class Hub(ThreadingHTTPServer):
    """Serves CONTENT as every file of every repository; gives way in the middle of it while `stall` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.stall = threading.Event()
        self.half_sent = threading.Event()
        self.ranges: list[str] = []
        self.etag = hashlib.sha256(CONTENT).hexdigest()


class Answer(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._head(200, len(CONTENT))

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        first = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.server.ranges.append(wanted)
        self._head(206 if wanted else 200, len(CONTENT) - first)
        if self.server.stall.is_set():
            self.wfile.write(CONTENT[first : len(CONTENT) // 2])
            self.wfile.flush()
            self.server.half_sent.set()
            time.sleep(60)
        self.wfile.write(CONTENT[first:])

    def _head(self, status: int, length: int) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": str(length),
            "Accept-Ranges": "bytes",
            "ETag": f'"{self.server.etag}"',
            "X-Linked-Etag": f'"{self.server.etag}"',
            "X-Linked-Size": str(len(CONTENT)),
            "X-Repo-Commit": "c" * 40,
        }.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def start(hub: Hub, folder: Path, name: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONUTF8": "1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "rlr_core", "rewards", "download", name, "--folder", str(folder)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


@pytest.mark.slow
def test_a_download_that_is_killed_goes_on_where_it_was(hub, tmp_path):
    folder = tmp_path / "mit Größe"
    target = folder / "PickScore_v1" / "model.safetensors"
    hub.stall.set()
    first = start(hub, folder, "pickscore")
    assert hub.half_sent.wait(60)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and sum(p.stat().st_size for p in folder.rglob("*.part")) < 10**6:
        time.sleep(0.1)
    first.kill()
    first.communicate()
    assert not target.exists()
    hub.stall.clear()
    out, said = start(hub, folder, "pickscore").communicate(timeout=120)
    assert target.read_bytes() == CONTENT, said
    assert [path.name for path in target.parent.iterdir()] == ["model.safetensors"]
    assert hub.ranges[0] == "" and int(hub.ranges[-1].removeprefix("bytes=").rstrip("-")) >= 10**6
    assert f"pickscore: {target}" in out
    assert "Downloading model.safetensors (3.94 GB) of 'pickscore'" in said and "%|" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clipscore", "pickscore"])
def test_what_came_is_compared_with_the_digest(hub, tmp_path, name):
    """CLIP's digest is known beforehand; PickScore's is what the hub says."""
    if name == "pickscore":
        hub.etag = "0" * 64
    running = start(hub, tmp_path, name)
    out, said = running.communicate(timeout=120)
    assert running.returncode == 2 and not out
    assert "damaged or another file: its sha256 is" in said and hashlib.sha256(CONTENT).hexdigest() in said
    assert not list(tmp_path.rglob("model.safetensors*"))


def test_without_a_network_the_message_says_what_to_do_by_hand(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["rewards", "download", "hpsv2.1", "--folder", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    for part in (
        "downloading it failed",
        "HPS_v2.1_compressed.pt",
        "1.97 GB",
        "huggingface.co/xswu/HPSv2",
        str(tmp_path / "HPSv2"),
    ):
        assert part in said


def test_the_list_says_what_is_there_what_is_missing_and_where_it_goes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    place = tmp_path / PUBLISHED["imagereward"].files[0].place
    for path in (place, tmp_path / PUBLISHED["hpsv2"].files[0].place):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    assert main(["rewards", "--folder", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    states = {line.split()[0]: line.split()[1] for line in listed.splitlines() if line[:1].strip()}
    assert states["hpsv2"] == "installed" and states["imagereward"] == states["pickscore"] == "missing"
    assert f"1.79 GB, Apache-2.0: {place}" in listed
    assert "get https://github.com/christophschuhmann" in listed
    assert str(tmp_path / "bert-base-uncased" / "vocab.txt") in listed
    assert "always there: embedded" in listed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["download", "hps2"], "did you mean 'hpsv2'"), (["download"], "name of a reward")],
)
def test_names_that_are_none(arguments, said, capsys):
    assert main(["rewards", *arguments]) == 2
    assert said in capsys.readouterr().err
