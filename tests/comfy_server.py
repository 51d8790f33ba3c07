"""A real ComfyUI as a process with the nodes in it, asked over HTTP: of COMFYUI_DIR, in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import example_graphs

ROOT = Path(__file__).parent.parent
CHECKPOINT = "reduced.ckpt"
SMALL = {
    "iterations": 2, "batch_size": 2, "rank": 2, "steps": 3, "width": 64, "height": 64, "held_out_pairs": 2,
    "preview_every": 0, "learning_rate": 0.01,
}  # fmt: skip


class Server:
    """A ComfyUI that serves."""

    def __init__(self, home: Path, port: int):
        self.home, self.address = home, f"http://127.0.0.1:{port}"

    def ask(self, path: str, body: Any = None) -> Any:
        """GET, or POST with a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + path, data, {"Content-Type": "application/json"} if data else {}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def queue(self, prompt: dict[str, Any]) -> str:
        return self.ask("/prompt", {"prompt": prompt, "client_id": "tests"})["prompt_id"]

    def wait(self, number: str, seconds: float = 1200) -> dict[str, Any]:
        """What became of a prompt."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if number in (history := self.ask(f"/history/{number}")):
                return history[number]
            time.sleep(0.3)
        raise AssertionError(f"{number} is not over")

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        return self.wait(self.queue(prompt))


@contextmanager
def serving(home: Path, *arguments: str) -> Iterator[Server]:
    """With a reduced checkpoint among its models; its Python is ours, its packages are those that PYTHONPATH adds."""
    models = home / "models" / "checkpoints"
    models.mkdir(parents=True, exist_ok=True)
    (home / "custom_nodes").mkdir(exist_ok=True)
    if not (home / "custom_nodes" / "rlr").exists():
        (home / "custom_nodes" / "rlr").symlink_to(ROOT)
    if not (models / CHECKPOINT).exists():
        path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        make = "import real_comfyui, sys; print(real_comfyui.checkpoint())"
        environment = {**os.environ, "PYTHONPATH": path}
        made = subprocess.check_output([sys.executable, "-c", make], env=environment, encoding="utf-8")
        shutil.copy(made.splitlines()[-1], models / CHECKPOINT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "main.py", "--cpu", "--port", str(port), "--base-directory", str(home), *arguments],
            cwd=os.environ["COMFYUI_DIR"], stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            server = Server(home, port)
            _wait_for(server, process)
            yield server
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(server: Server, process: subprocess.Popen[bytes]) -> None:
    for _ in range(3000):
        assert process.poll() is None, (server.home / "server.log").read_text()
        try:
            server.ask("/system_stats")
            return
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError("it does not serve")


def reduced(graph: example_graphs.Graph, **training: Any) -> example_graphs.Graph:
    """An example that a CPU trains in seconds: the small checkpoint, few steps, a reward whose weights nobody needs."""
    made: example_graphs.Graph = {}
    for name, (kind, given) in graph.items():
        inputs = dict(given)
        if kind == "CheckpointLoaderSimple":
            inputs["ckpt_name"] = CHECKPOINT
        if kind == "RLRTrain":
            inputs |= {**SMALL, **training}
            if "estimator" not in inputs:
                inputs["estimator"] = ("zeroth", 0)
                made["zeroth"] = ("RLREstimator", {"preset": "black-box"})
        if kind in ("RLRRewardPickscore", "RLRRewardImagereward"):
            kind = "RLRRewardSharpness"
        if kind == "RLRRewardAesthetic":
            kind = "RLRRewardJpegCompressibility"
        if kind == "EmptyLatentImage":
            inputs |= {"width": 64, "height": 64}
        if kind in ("KSampler", "RLRStageConditioning"):
            inputs["steps"] = 3
        made[name] = (kind, inputs)
    return made
