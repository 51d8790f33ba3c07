"""What `javascript/rlr.js` does to a webui's page, in a browser; the page has the names of A1111's and Forge's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from browsers import chromium

playwright = pytest.importorskip("playwright.sync_api")

SCRIPT = Path(__file__).parents[1] / "javascript" / "rlr.js"
PAGE = """<!doctype html><meta charset="utf-8"><body><div id="tabs"><div class="tab-nav"><button>txt2img</button>
<button onclick="opened = true">RLR</button></div>
<div id="tab_txt2img"><div><button id="txt2img_send_to_extras" class="tool">📐</button></div>
<div id="html_info_txt2img"><div><p class="infotext">a &lt;b&gt; füchs &amp; 狐<br>
Negative prompt: x<br>
Steps: 2, Size: 64x96</p></div></div></div>
<div id="tab_pnginfo"><textarea hidden></textarea><div id="pnginfo_generation_info"><textarea></textarea></div>
<div><button id="extras_tab" class="lg">Send to extras</button></div></div>
<div id="tab_rlr"><div id="rlr_bar" data-root="/rlr-gui" hidden></div><iframe src="/rlr-gui/" title="RLR"></iframe></div></div>
<script>opened = false; gradioApp = () => document; onUiLoaded = (f) => addEventListener("load", f);</script>
<script src="/rlr.js"></script>"""


@pytest.fixture
def asked(request: pytest.FixtureRequest) -> Iterator[tuple[Any, list[str]]]:
    """The page, and what it has asked the webui for."""
    news, seen = getattr(request, "param", {"work": [], "loras": []}), []

    def answer(route: Any) -> None:
        seen.append(route.request.url)
        path = urlsplit(route.request.url).path
        texts = {"/": PAGE, "/rlr.js": SCRIPT.read_text(encoding="utf-8"), "/rlr-gui/news": json.dumps(news)}
        kind = {"/rlr.js": "text/javascript", "/rlr-gui/news": "application/json"}.get(path, "text/html")
        route.fulfill(body=texts.get(path, "the GUI"), content_type=f"{kind}; charset=utf-8")

    with playwright.sync_playwright() as p:
        browser = chromium(p)
        page = browser.new_page()
        page.route("**/*", answer)
        page.goto("http://webui.test/")
        yield page, seen
        browser.close()


def picture(seen: list[str]) -> str:
    """The text that the GUI was asked to begin with."""
    (last,) = [url for url in seen if "picture=" in url][-1:]
    query = parse_qs(urlsplit(last).query, keep_blank_values=True)
    assert urlsplit(last).path == "/rlr-gui/" and query["view"] == ["train"]
    return query["picture"][0]


def test_a_pictures_text_is_sent_to_the_gui(asked):
    page, seen = asked
    assert page.locator(".rlr-send").count() == 2  # there is no img2img on this page
    page.click("#tab_txt2img .rlr-send")
    page.wait_for_url("**")
    page.frame_locator("iframe").get_by_text("the GUI").wait_for()
    assert picture(seen) == "a <b> füchs & 狐\nNegative prompt: x\nSteps: 2, Size: 64x96"
    assert page.evaluate("opened") is True

    page.fill("#pnginfo_generation_info textarea", "y\nSteps: 3")
    page.click("#tab_pnginfo .rlr-send")
    page.wait_for_function("document.querySelector('iframe').src.includes('y%0ASteps')")
    page.evaluate("dispatchEvent(new Event('load'))")  # "Reload UI" loads scripts once more in some hosts
    assert page.locator(".rlr-send").count() == 2


LORA = {"run": "r-1", "prompt": "<lora:r-1:1>", "problem": ""}
DEMO = {**LORA, "note": "It is for the demo alone."}
PROBLEM = {"run": "r-1", "prompt": "", "problem": "the disk is full"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"work": ["r-2"], "loras": [LORA]}, "r-2 is training: pictures are slow meanwhile."),
        ({"work": [], "loras": [PROBLEM]}, "is not in the webui's folder: the disk is full"),
        ({"work": [], "loras": [LORA]}, "New LoRA: <lora:r-1:1>"),
        ({"work": [], "loras": [DEMO]}, "It is for the demo alone."),
    ],
    indirect=["asked"],
)
def test_the_bar_says_what_becomes_of_runs(asked, words):
    page, _ = asked
    page.locator("#rlr_bar", has_text=words).wait_for(timeout=10_000)


@pytest.mark.parametrize(
    "asked",
    [{"work": ["für 2"], "loras": []}, {"work": [], "loras": [PROBLEM | {"run": "für 2"}]}],
    indirect=True,
)
def test_the_run_that_is_training_or_brought_nothing_is_shown(asked):
    page, _ = asked
    page.get_by_role("button", name="Show").click()
    page.wait_for_function(
        "document.querySelector('iframe').src.endsWith('/rlr-gui/?view=runs&run=f%C3%BCr%202')"
    )
