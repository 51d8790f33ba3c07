"""The nodes in ComfyUI's own page, in both of its renderers; where COMFYUI_DIR is set.

COMFYUI_FRONTENDS may name folders of other front ends than its own, separated as in PATH; RLR_PICTURES one for pictures of
what is seen.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any

import comfy_bed
import comfy_server
import example_graphs
import pytest
from browsers import chromium
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not comfy_bed.REAL, reason="COMFYUI_DIR is not set"),
]
PATIENCE = 900_000
FRONTENDS = os.environ.get("COMFYUI_FRONTENDS", "").split(os.pathsep)
TRIAL = "1.27."
"""Front ends whose Nodes 2.0 do not yet call what a pack adds to a node."""
FIT = """
    () => {
        const nodes = app.graph.nodes ?? app.graph._nodes;
        const left = Math.min(...nodes.map((n) => n.pos[0])), top = Math.min(...nodes.map((n) => n.pos[1])) - 30;
        const right = Math.max(...nodes.map((n) => n.pos[0] + n.size[0]));
        const below = Math.max(...nodes.map((n) => n.pos[1] + n.size[1]));
        const scale = Math.min((innerWidth - 180) / (right - left), (innerHeight - 230) / (below - top));
        app.canvas.ds.scale = scale;
        app.canvas.ds.offset = [70 / scale - left, 180 / scale - top];
        app.canvas.setDirty(true, true);
    }
"""


@pytest.fixture(scope="module", params=FRONTENDS)
def server(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    comfy_bed.node_file("pack")
    home = tmp_path_factory.getbasetemp() / "comfyui"
    comfy_server.put_checkpoint(home, "sdxl")
    for name in (example_graphs.SD, example_graphs.XL):  # what is not there has a red frame
        (home / "models" / "checkpoints" / name).touch()
    options = ["--front-end-root", request.param] if request.param else []
    with comfy_server.serving(home, *options) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        opened = chromium(p)
        yield opened
        opened.close()


@pytest.fixture(params=["classic", "nodes-2"])
def page(request: Any, server: Any, browser: Any) -> Iterator[Any]:
    shown = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False}
    server.ask("/settings", {"Comfy.VueNodes.Enabled": request.param == "nodes-2", **shown})
    context = browser.new_context(viewport={"width": 2400, "height": 1500})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.errors = []
    page.on("pageerror", lambda error: "/rlr/" in str(error.stack) and page.errors.append(str(error)))
    page.goto(server.address)
    page.wait_for_function("() => window.app?.graph && window.app.extensionManager")
    page.renderer = request.param
    version = page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__ ?? ''")
    if request.param == "nodes-2" and version.startswith(TRIAL):
        context.close()
        pytest.skip(f"the front end {version} has a trial of Nodes 2.0 that draws no panel of a pack's node")
    yield page
    context.close()


def pictured(page: Any, name: str) -> None:
    if folder := os.environ.get("RLR_PICTURES"):
        page.evaluate(FIT)
        page.wait_for_timeout(500)
        page.screenshot(path=Path(folder) / f"{name}-{page.renderer}.png")


def opened(page: Any, graph: example_graphs.Graph) -> None:
    page.evaluate("graph => app.loadGraphData(graph)", example_graphs.workflow(graph))
    page.wait_for_function("() => app.graph.nodes.some((n) => n.comfyClass === 'RLRTrain')")
    page.evaluate(FIT)


@pytest.mark.parametrize("title", example_graphs.TITLES)
def test_each_example_opens_as_it_is_shipped(page, title):
    """All of its nodes are known, and none covers another."""
    shipped = json.loads((example_graphs.FOLDER / f"{title}.json").read_text("utf-8"))
    page.evaluate("graph => app.loadGraphData(graph)", shipped)
    page.wait_for_function("count => app.graph.nodes.length === count", arg=len(shipped["nodes"]))
    page.wait_for_timeout(2000)
    drawn = page.evaluate(DRAWN)
    assert [name for name, known, _ in drawn if not known] == []
    covered = [(a[0], b[0]) for a, b in combinations(drawn, 2) if overlap(a[2], b[2])]
    assert not covered and not page.errors
    if (folder := os.environ.get("RLR_PICTURES")) and page.renderer == "classic":
        thumbnail(page, Path(folder) / f"{title}.jpg")


DRAWN = """
    () => app.graph.nodes.map((n) => [
        n.title, n.type in LiteGraph.registered_node_types, [n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30],
    ])
"""
"""Each node: its title, whether ComfyUI has it, and (left, top, width, height) with the title."""
BARE = "body * { visibility: hidden } #graph-canvas, .dom-widget, .dom-widget * { visibility: visible }"
"""The graph without what is around it."""


def overlap(one: list[float], other: list[float]) -> bool:
    return all(one[k] < other[k] + other[k + 2] and other[k] < one[k] + one[k + 2] for k in (0, 1))


def thumbnail(page: Any, file: Path) -> None:
    """As ComfyUI shows it in its list of examples."""
    page.add_style_tag(content=BARE)
    page.set_viewport_size({"width": 2880, "height": 1800})  # from afar, ComfyUI leaves out all texts
    page.wait_for_timeout(500)
    page.evaluate(WHOLE)
    page.wait_for_timeout(1000)
    with Image.open(BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").resize((720, 450), Image.Resampling.LANCZOS).save(file, quality=88)


WHOLE = """
    () => {
        const boxes = app.graph.nodes.map((n) => [n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]);
        const [left, top] = [0, 1].map((k) => Math.min(...boxes.map((box) => box[k])));
        const [right, below] = [2, 3].map((k) => Math.max(...boxes.map((box) => box[k])));
        const scale = Math.min((innerWidth - 96) / (right - left), (innerHeight - 96) / (below - top));
        app.canvas.ds.scale = scale;
        app.canvas.ds.offset = [(innerWidth / scale - right - left) / 2, (innerHeight / scale - below - top) / 2];
        app.canvas.setDirty(true, true);
    }
"""
"""All of the graph, in the middle."""


@pytest.mark.parametrize("title", example_graphs.TITLES)
def test_each_example_runs_stops_goes_on_and_is_there_again_after_a_reload(page, title, server):
    opened(page, example(title, seed=20 if page.renderer == "classic" else 21))
    press(page, "Comfy.QueuePrompt")
    says(page, rf"running.*iteration ([{2 if title == 'SDXL' else 4}-9]|\d\d).* left")
    page.wait_for_function("() => document.querySelector('.rlr-panel svg polyline')")
    assert page.locator(".rlr-panel").first.bounding_box()["height"] > 60, "there is room for it"
    page.wait_for_function(ONE_PREVIEW)
    pictured(page, f"{title.split()[0].lower()}-running")
    press(page, "Comfy.Interrupt")
    says(page, r"stopped.*what was learned is in .*\.safetensors")
    idle(page, server)
    page.evaluate(SHORTER)
    press(page, "Comfy.QueuePrompt")
    says(page, "finished")
    idle(page, server)
    page.wait_for_function("() => document.body.innerText.includes('Saved in models/loras: rlr')")
    pictured(page, f"{title.split()[0].lower()}-finished")
    done = next(iter(server.ask("/history?max_items=1").values()))
    assert done["status"]["status_str"] == "success"
    assert "Interrupt" not in page.locator(".rlr-note").first.text_content()
    charts = page.locator(".rlr-panel svg")
    assert charts.count() == (4 if title.startswith("Mix") else 2)
    page.reload()
    says(page, "finished")
    page.wait_for_function("() => document.querySelector('.rlr-panel img').naturalWidth > 0")
    page.wait_for_timeout(1000)
    pictured(page, f"{title.split()[0].lower()}-reloaded")
    assert charts.count() == (4 if title.startswith("Mix") else 2) and not page.errors


ONE_PREVIEW = """
    () => {
        const node = app.graph.nodes.find((n) => n.comfyClass === "RLRTrain");
        const hosts = Boolean(node.imgs?.length || app.nodePreviewImages?.[node.id]?.length);
        const ours = !document.querySelector(".rlr-panel img").hidden;
        return hosts !== ours;
    }
"""
"""ComfyUI's own, or that of our panel."""
SHORTER = """
    () => {
        const node = app.graph.nodes.find((n) => n.comfyClass === "RLRTrain");
        const done = Number(/iteration (\\d+) of/.exec(document.querySelector(".rlr-told").textContent)[1]);
        node.widgets.find((w) => w.name === "iterations").value = done + 1;
    }
"""
"""One iteration is left, as if it were written on the node."""


def press(page: Any, command: str) -> None:
    """What the page's buttons do."""
    page.evaluate("command => app.extensionManager.command.execute(command)", command)


def says(page: Any, pattern: str) -> None:
    """Wait until the node says so."""
    page.wait_for_function(
        "(pattern) => RegExp(pattern).test(document.querySelector('.rlr-told')?.textContent)", arg=pattern
    )


def example(title: str, **training: Any) -> example_graphs.Graph:
    """At a reduced size, long enough to be stopped."""
    if title != "SDXL":
        return comfy_server.reduced(example_graphs.graphs()[title], iterations=200, **training)
    graph = comfy_server.reduced(
        example_graphs.graphs()[title], "reduced-sdxl.ckpt", iterations=200, **training
    )
    graph["prompts"][1]["prompts"] = "a red fox in the snow"
    return graph


def idle(page: Any, server: Any) -> None:
    """Wait until all that was queued is over, and drawn."""
    while server.ask("/queue")["queue_running"]:
        page.wait_for_timeout(500)
    page.wait_for_timeout(2000)
