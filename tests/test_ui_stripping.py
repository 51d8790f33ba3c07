"""The strip of what stages decide, from the page's form to the picture."""

from __future__ import annotations

import io
import time
from dataclasses import replace

import pytest
from PIL import Image

pytest.importorskip("gradio")
pytest.importorskip("diffusers")
testclient = pytest.importorskip("fastapi.testclient")

from rlr_core.errors import PromptError, RLRError  # noqa: E402
from ui import form, jobs  # noqa: E402
from ui.guard import Rules  # noqa: E402
from ui.server import application  # noqa: E402
from ui.stripping import begin_strip, strips  # noqa: E402
from ui.workspace import Workspace  # noqa: E402

STAGES = (
    "a red circle\na blue star",
    "a striped red circle\na blue star",
    "a striped red circle on sand\na star",
)


def settings():
    filled = form.Filled(stages=STAGES, boundaries=(0.3, 0.6), advanced={"sampling.steps": "8"})
    return form.compose(filled, "models/rewards")


@pytest.mark.slow
def test_the_first_prompt_is_painted(tmp_path):
    workspace = Workspace.open(tmp_path)
    name = begin_strip(workspace, settings())
    with pytest.raises(RLRError, match="another one is being worked on"):
        begin_strip(workspace, settings())
    client = testclient.TestClient(application(workspace, Rules()), base_url="http://127.0.0.1:7866")
    end = time.monotonic() + 200
    while (told := client.get(f"/rlr/strip/{name}").json())["state"] == "working" and time.monotonic() < end:
        time.sleep(0.3)
    assert told["state"] == "finished", told
    shown = client.get(f"/rlr/job/strip/{name}/strip.png", params={"side": 2048})
    picture = Image.open(io.BytesIO(shown.content))
    assert picture.width > 7 * 128 and 128 < picture.height < 400


def test_a_job_that_cannot_load_says_why(tmp_path):
    workspace = Workspace.open(tmp_path)
    config = settings()
    gone = replace(config, model=replace(config.model, checkpoint=str(tmp_path / "gone.safetensors")))
    name, end = begin_strip(workspace, gone), time.monotonic() + 200
    while jobs.told(strips(workspace).folder(name))["state"] == "working" and time.monotonic() < end:
        time.sleep(0.3)
    told = jobs.told(strips(workspace).folder(name))
    assert told["state"] == "failed" and "gone.safetensors" in told["error"]


def test_without_a_prompt_nothing_begins(tmp_path):
    workspace = Workspace.open(tmp_path)
    with pytest.raises(PromptError, match="no prompt"):
        begin_strip(workspace, form.compose(form.Filled(), ""))
    assert not strips(workspace).names()


@pytest.mark.parametrize("name", ["..", "20260101-000000-ffffff", "x"])
def test_strips_that_are_not_there(tmp_path, name):
    client = testclient.TestClient(
        application(Workspace.open(tmp_path), Rules()), base_url="http://127.0.0.1:7866"
    )
    assert client.get(f"/rlr/strip/{name}").status_code in (400, 404)
