"""What `nodes/web` does to ComfyUI's page, in a browser; the page has the parts of ComfyUI's front end that it uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from browsers import chromium

playwright = pytest.importorskip("playwright.sync_api")

WEB = Path(__file__).parents[1] / "nodes" / "web"
SCRIPTS = {
    "/scripts/app.js": "export const app = { registerExtension: (made) => (app.made = made) };",
    "/scripts/api.js": """
        export const api = Object.assign(new EventTarget(), { fetchApi: (path) => fetch(path), apiURL: (path) => path });
    """,
}
PAGE = """<!doctype html><meta charset="utf-8"><body style="width: 380px"><script type="module">
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";
import "/extensions/rlr/rlr.js";
window.state = "running";
const node = { id: 7, graph: {}, comfyClass: "RLRTrain", properties: {}, size: [200, 100], setSize() {} };
node.addDOMWidget = (name, kind, element, options) => (document.body.append(element), (node.asked = options), {});
app.graph = { id: "one", getNodeById: (id) => (id === 7 ? node : undefined) };
app.made.setup();
app.made.nodeCreated(node);
window.node = node;
window.app = app;
window.hear = (event, detail) => api.dispatchEvent(new CustomEvent(event, { detail }));
</script>"""
CURVE = [[0, 1.0, 0.1], [3, 2.0, 0.1]]
RUN = {
    "run": "run-001", "state": "running", "iteration": 3, "iterations": 9, "seconds_left": 60.0, "message": "", "result": "",
    "curves": {"reward trained on": CURVE, "held-out score": CURVE}, "preview": "previews/1.png", "lora": "",
}  # fmt: skip


@pytest.fixture
def page() -> Iterator[Any]:
    def answer(route: Any) -> None:
        path = urlsplit(route.request.url).path
        file = WEB / path.rpartition("/")[2]
        if path.startswith("/extensions/"):
            route.fulfill(body=file.read_text(encoding="utf-8"), content_type="text/javascript")
        elif path == "/rlr/runs/run-009":
            route.fulfill(status=404, body="{}", content_type="application/json")
        elif path.startswith("/rlr/"):
            state = {"state": route.request.frame.evaluate("state")}
            run = {**RUN, **state, **({"workflow": "other"} if "/nodes/" in path else {})}
            route.fulfill(body=json.dumps(run), content_type="application/json")
        else:
            kind = "text/html" if path == "/" else "text/javascript"
            route.fulfill(body=PAGE if path == "/" else SCRIPTS.get(path, ""), content_type=kind)

    with playwright.sync_playwright() as p:
        browser = chromium(p)
        page = browser.new_page()
        page.route("**/*", answer)
        page.goto("http://comfyui.test/")
        page.wait_for_function("() => window.hear")
        yield page
        browser.close()


def test_a_node_shows_the_runs_of_its_own_workflow_alone(page):
    """Workflows made of one template have nodes of the same numbers."""
    told = page.locator(".rlr-told")
    message = {"node": "7", "run": "run-001", "iteration": 3, "state": "running", "doing": "", "note": ""}
    page.evaluate("facts => hear('rlr.run', facts)", {**message, "workflow": "other"})
    page.evaluate(
        "facts => hear('executed', facts)",
        {"node": "7", "output": {"rlr_run": ["run-001"], "rlr_workflow": ["other"]}},
    )
    page.evaluate("() => app.made.loadedGraphNode(node)")  # as after a reload; the server names the other one
    page.wait_for_timeout(1500)
    assert "run-001" not in told.inner_text() and page.evaluate("node.properties") == {}
    page.evaluate("facts => hear('rlr.run', facts)", {**message, "workflow": "one"})
    page.wait_for_function(
        "() => document.querySelector('.rlr-told').textContent.includes('iteration 3 of 9')"
    )
    assert page.evaluate("node.properties") == {"rlr_run": "run-001"}


def test_a_node_keeps_its_size_while_it_trains(page):
    """Or it would cover what lies below; where ComfyUI shows a preview itself, ours gives its room away."""
    height = "() => document.querySelector('.rlr-panel').getBoundingClientRect().height"
    before = page.evaluate(height)
    assert before == page.evaluate("node.asked.getMinHeight()")
    page.evaluate("() => hear('rlr.run', { node: '7', run: 'run-001', state: 'running', doing: '' })")
    page.locator(".rlr-panel svg").nth(1).wait_for()
    assert page.locator(".rlr-panel img").is_visible() and page.evaluate(height) == before
    page.evaluate("() => { node.imgs = [{}]; hear('rlr.run', { node: '7', state: 'running', doing: '' }); }")
    page.locator(".rlr-panel img").wait_for(state="hidden")
    assert page.evaluate(height) == page.evaluate("node.asked.getMinHeight()") == before - 110


def test_a_page_that_did_not_queue_the_graph_sees_the_run_end(page):
    """ComfyUI sends messages to the page that queued it alone: not to one that was opened later."""
    page.evaluate("() => { node.properties.rlr_run = 'run-001'; app.made.loadedGraphNode(node); }")
    page.wait_for_function("() => document.querySelector('.rlr-told').textContent.includes('running')")
    page.evaluate("() => (state = 'finished')")
    page.wait_for_function("() => document.querySelector('.rlr-told').textContent.includes('finished')")


def test_a_run_without_a_folder_is_told_but_not_while_it_begins(page):
    """The first message of a run comes before its folder is written, and the last of one that is refused, too."""
    told = page.locator(".rlr-told")
    page.evaluate("() => { node.properties.rlr_run = 'run-009'; app.made.loadedGraphNode(node); }")
    page.wait_for_function("() => document.querySelector('.rlr-told').textContent.includes('renamed')")
    assert told.inner_text().startswith("run-009 is not in output/rlr")
    before = told.inner_text()
    page.evaluate(
        "() => hear('rlr.run', { node: '7', run: 'run-009', state: 'running', doing: '', note: '' })"
    )
    page.wait_for_timeout(1500)
    assert told.inner_text() == before
    page.evaluate(
        "() => hear('rlr.run', { node: '7', run: 'run-009', state: 'failed', note: 'it has no gradient' })"
    )
    page.wait_for_function("() => document.querySelector('.rlr-told').textContent === 'run-009: failed'")
    assert page.locator(".rlr-note").inner_text() == "it has no gradient"


def test_why_a_run_failed_is_told_on_the_node(page):
    """Newer front ends tell it in a side panel alone."""
    error = {
        "node_id": "7",
        "node_type": "RLRTrain",
        "exception_message": "no prompts\n  what to do: write some",
    }
    page.evaluate("facts => hear('execution_error', facts)", error)
    assert page.locator(".rlr-note").inner_text() == error["exception_message"]


def test_curves_can_be_read_on_a_light_palette(page):
    page.evaluate("() => document.documentElement.style.setProperty('--input-text', '#222')")
    page.evaluate("() => hear('rlr.run', { node: '7', run: 'run-001', state: 'running', doing: '' })")
    page.locator(".rlr-panel svg").nth(1).wait_for()
    strokes = "() => [...document.querySelectorAll('polyline')].map((line) => getComputedStyle(line).stroke)"
    for stroke in page.evaluate(strokes):
        numbers = [float(each) for each in stroke.removeprefix("color(srgb ").rstrip(")").split()[:3]]
        assert max(numbers) < 0.75, f"{stroke} is pale on white"
