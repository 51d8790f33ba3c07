"""A real ComfyUI as a process with the nodes in it, asked over HTTP: of COMFYUI_DIR, in a folder of its own."""

from __future__ import annotations

import asyncio
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
import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
CLIENT = "tests"
OVER = ("execution_success", "execution_error", "execution_interrupted")
PICTURES = (1, 4)
"""How ComfyUI numbers its binary messages that hold a preview."""
CHECKPOINT = "reduced-sd1.ckpt"
SMALL = {
    "iterations": 2, "batch_size": 2, "rank": 2, "steps": 3, "width": 64, "height": 64, "held_out_pairs": 2,
    "preview_every": 0, "learning_rate": 0.01,
}  # fmt: skip
AT_ONCE = "black-box-unbiased"
"""The preset of short runs: that of black boxes moves nothing before it has learned what the reward says."""


class Server:
    """A ComfyUI that serves."""

    def __init__(self, home: Path, port: int, process: subprocess.Popen[bytes]):
        self.home, self.address, self.process = home, f"http://127.0.0.1:{port}", process

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
        return self.ask("/prompt", {"prompt": prompt, "client_id": CLIENT})["prompt_id"]

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

    def picture(self, done: dict[str, Any], node: str = "picture") -> bytes:
        """What a node shows, pixel for pixel."""
        image = done["outputs"][node]["images"][0]
        with Image.open(self.home / image["type"] / image["filename"]) as picture:
            return np.asarray(picture.convert("RGB")).tobytes()

    def memory(self) -> float:
        """MB of the process that are in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


def told(done: dict[str, Any], kind: str = "execution_error") -> dict[str, Any]:
    """What the first message of a kind says of a prompt."""
    return next(each[1] for each in done["status"]["messages"] if each[0] == kind)


def heard(server: Server, prompt: dict[str, Any]) -> tuple[list[tuple[str, Any]], int]:
    """What a browser hears while a prompt runs: messages as (kind, data), and how many pictures beside them."""
    return asyncio.run(_heard(server, prompt))


async def _heard(server: Server, prompt: dict[str, Any]) -> tuple[list[tuple[str, Any]], int]:
    import aiohttp  # pyright: ignore[reportMissingImports]

    messages: list[tuple[str, Any]] = []
    pictures = 0
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.address}/ws?clientId={CLIENT}") as socket,
    ):
        number = await asyncio.to_thread(server.queue, prompt)
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                pictures += int.from_bytes(message.data[:4], "big") in PICTURES
                continue
            said = json.loads(message.data)
            messages.append((said["type"], said["data"]))
            if said["type"] in OVER and said["data"]["prompt_id"] == number:
                break
    return messages, pictures


def at_work(server: Server, node: str, iterations: int) -> str:
    """The run that a node trains, when it has made so many iterations."""
    end = time.monotonic() + 900
    while time.monotonic() < end:
        shown = server.ask(f"/rlr/nodes/{node}")
        if shown and shown["iteration"] >= iterations:
            return shown["run"]
        time.sleep(0.2)
    raise AssertionError("it does not train")


@contextmanager
def serving(home: Path, *arguments: str) -> Iterator[Server]:
    """With a reduced checkpoint among its models; its Python is ours, its packages are those that PYTHONPATH adds."""
    (home / "custom_nodes").mkdir(parents=True, exist_ok=True)
    if not (home / "custom_nodes" / "rlr").exists():
        (home / "custom_nodes" / "rlr").symlink_to(ROOT)
    shutil.copy(ROOT / "tests" / "host_nodes.py", home / "custom_nodes" / "rlr_testing.py")
    put_checkpoint(home, "sd1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "main.py", "--cpu", "--port", str(port), "--base-directory", str(home), *arguments],
            cwd=os.environ["COMFYUI_DIR"], stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            server = Server(home, port, process)
            _wait_for(server, process)
            yield server
        finally:
            process.terminate()
            process.wait(30)


def put_checkpoint(home: Path, family: str) -> str:
    """A reduced checkpoint among the models of `home`, made by a process of its own; its name there."""
    models = home / "models" / "checkpoints"
    models.mkdir(parents=True, exist_ok=True)
    name = f"reduced-{family}.ckpt"
    if not (models / name).exists():
        path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        make = f"import real_comfyui; print(real_comfyui.checkpoint({family!r}))"
        environment = {**os.environ, "PYTHONPATH": path}
        made = subprocess.check_output([sys.executable, "-c", make], env=environment, encoding="utf-8")
        shutil.copy(made.splitlines()[-1], models / name)
    return name


def _wait_for(server: Server, process: subprocess.Popen[bytes]) -> None:
    for _ in range(3000):
        assert process.poll() is None, (server.home / "server.log").read_text()
        try:
            server.ask("/system_stats")
            return
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError("it does not serve")


def loading(graph: example_graphs.Graph, saved: str, strength: float = 1.0) -> dict[str, Any]:
    """The part of an example that paints, in ComfyUI's form, with a LoRA file by its own loader in place of training."""
    prompt = example_graphs.api(graph)
    names = ("checkpoint", "texts", "positive", "negative", "latent", "sampler", "decoded", "picture")
    painting = {name: prompt[name] for name in names if name in prompt}
    inputs = {"lora_name": saved, "strength_model": strength, "strength_clip": 0.0}
    wires = {"model": ["checkpoint", 0], "clip": prompt["train"]["inputs"]["clip"]}
    painting["lora"] = {"class_type": "LoraLoader", "inputs": {**inputs, **wires}}
    painting["sampler"]["inputs"]["model"] = ["lora", 0]
    return painting


def reduced(
    graph: example_graphs.Graph, checkpoint: str = CHECKPOINT, **training: Any
) -> example_graphs.Graph:
    """An example that a CPU trains in seconds: a small checkpoint, few steps, a reward whose weights nobody needs."""
    made: example_graphs.Graph = {}
    for name, (kind, given) in graph.items():
        inputs = dict(given)
        if kind == "CheckpointLoaderSimple":
            inputs["ckpt_name"] = checkpoint
        if kind == "RLRTrain":
            inputs |= {**SMALL, **training}
            if "estimator" not in inputs:
                inputs["estimator"] = ("zeroth", 0)
                made["zeroth"] = ("RLREstimator", {"preset": AT_ONCE})
        if kind == "RLREstimator":
            inputs["preset"] = AT_ONCE
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
