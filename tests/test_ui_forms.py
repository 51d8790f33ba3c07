"""The pages Compare, Score and Settings over HTTP: jobs in processes of their own, and hostile requests."""

from __future__ import annotations

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from rlr_core.errors import RunError
from rlr_core.runs.worker import Worker
from ui import jobs
from ui.form_routes import form_router
from ui.jobs import Jobs
from ui.workspace import Workspace


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "zu Hause 家"


@pytest.fixture
def client(home: Path) -> TestClient:
    home.mkdir()
    app = FastAPI()
    app.include_router(form_router(Workspace.open(home)))
    return TestClient(app)


def picture(colour: str = "#4b4fc4") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), colour).save(buffer, "PNG")
    return buffer.getvalue()


def finished(client: TestClient, path: str, seconds: float = 120) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        told = client.get(path).json()
        if told["state"] != "working":
            return told
        time.sleep(0.3)
    raise AssertionError(f"not finished: {told}")


def test_pictures_are_scored_in_a_process_of_its_own(client: TestClient, home: Path):
    job = client.post("/rlr/score").json()["job"]
    for name, colour in (("a.png", "white"), ("b.png", "black")):
        assert (
            client.put(
                f"/rlr/score/{job}/picture", params={"name": name}, content=picture(colour)
            ).status_code
            == 200
        )
    assert len(client.get("/rlr/score").json()["waiting"]) == 2
    assert "no prompt" in client.post(f"/rlr/score/{job}/start", json={}).json()["error"]
    assert client.post(f"/rlr/score/{job}/start", json={"prompt": "nothing drawn"}).json() == {"job": job}
    told = finished(client, "/rlr/score")
    assert told["state"] == "finished" and told["rows"][1]["name"] == "b.png"
    assert set(told["rows"][0]["scores"]) >= {"embedded", "sharpness", "jpeg-compressibility"}
    assert "embedded-held-out" in told["problems"]  # it knows the words of its own world alone
    answer = client.get(f"/rlr/score/{job}/scores.csv")
    assert answer.headers["content-type"].startswith("text/csv") and answer.text.count("\r\n") == 4
    assert (
        client.put(f"/rlr/score/{job}/picture", params={"name": "c.png"}, content=picture()).status_code
        == 400
    )
    small = client.get(f"/rlr/job/score/{job}/00.png", params={"side": 128})
    assert small.headers["content-type"] == "image/webp"
    assert (
        client.get(
            f"/rlr/job/score/{job}/00.png?side=128", headers={"If-None-Match": small.headers["etag"]}
        ).status_code
        == 304
    )


@pytest.mark.slow
def test_the_base_is_painted_at_two_strengths_and_cancelled(client: TestClient, home: Path):
    asked = {
        "first": "base",
        "second": "base",
        "checkpoint": "embedded",
        "prompts": ["a plain red square on sand"],
        "pictures": 1,
    }
    job = client.post("/rlr/compare", json={**asked, "rewards": ["embedded-held-out", "sharpness"]}).json()[
        "job"
    ]
    assert "another one" in client.post("/rlr/compare", json=asked).json()["error"]
    told = finished(client, f"/rlr/compare?job={job}")
    assert told["state"] == "finished", told
    assert (
        told["pictures"] == [[0, 0], [1, 0]]
        and told["scores"]["sharpness"][0] == told["scores"]["sharpness"][1]
    )
    sheet = client.get(f"/rlr/compare/{job}/sheet.png")
    with Image.open(io.BytesIO(sheet.content)) as made:
        settings = json.loads(made.info["rlr compare"])
        assert settings["seeds"] == [0] and "Steps: " in made.info["parameters"]
    again = client.post("/rlr/compare", json=asked).json()["job"]
    assert client.post(f"/rlr/job/compare/{again}/cancel").status_code == 200
    assert client.get("/rlr/compare").json()["state"] == "cancelled"
    assert not jobs.is_at_work(home / "ui" / "compare" / again)


PATHS = [
    "..",
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "20200101-000000-abcdef",
    "a" * 500,
    "x%00y",
    "con",
    "%2Fetc",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_job_no_file_of_others(client: TestClient, home: Path, path: str):
    (home / "rlr-ui.toml").write_text("secret", encoding="utf-8")
    asked = [
        client.get(f"/rlr/job/compare/{path}/0-0.png"),
        client.get(f"/rlr/job/{path}/x/0-0.png"),
        client.get(f"/rlr/compare/{path}/sheet.png"),
        client.get(f"/rlr/score/{path}/scores.csv"),
        client.post(f"/rlr/job/compare/{path}/cancel"),
        client.post(f"/rlr/compare/{path}/prefer"),
        client.post(f"/rlr/score/{path}/start", json={"prompt": "x"}),
        client.put(f"/rlr/score/{path}/picture", params={"name": "a.png"}, content=picture()),
    ]
    assert all(400 <= answer.status_code < 500 for answer in asked), [answer.status_code for answer in asked]
    assert not any("secret" in answer.text for answer in asked)


@pytest.mark.parametrize(
    "file", ["..%2f..%2frlr-ui.toml", "log", "asked.json", "0-0.png%00", "../asked.json", "worker.json"]
)
def test_only_pictures_of_a_job_are_served(client: TestClient, file: str):
    job = client.post("/rlr/score").json()["job"]
    assert client.get(f"/rlr/job/score/{job}/{file}").status_code == 404
    assert client.get(f"/rlr/job/score/{job}/00.png", params={"side": 99999}).status_code == 404


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "null", '"x"', '{"prompts": {}}', '{"second": [[[]]]}', "[" * 10_000]
)
@pytest.mark.parametrize("path", ["/rlr/compare", "/rlr/settings/folders", "/rlr/settings/theme"])
def test_malformed_json_is_refused(client: TestClient, home: Path, path: str, body: str):
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert not (home / "rlr-ui.toml").exists() and not (home / "ui" / "compare").exists()


def test_too_large_a_picture_is_refused_before_it_is_there(client: TestClient, home: Path):
    job = client.post("/rlr/score").json()["job"]
    sent = []

    def body():
        for _ in range(64):
            sent.append(1)
            yield b"\x89PNG" * 2**18

    answer = client.put(f"/rlr/score/{job}/picture", params={"name": "a.png"}, content=body())
    assert answer.status_code == 413 and list((home / "ui" / "score" / job).iterdir()) == []


def test_many_requests_at_once(client: TestClient):
    job = client.post("/rlr/score").json()["job"]
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(
                lambda k: client.put(f"/rlr/score/{job}/picture?name={k}.png", content=picture()), range(60)
            )
        )
    assert sorted(answer.status_code for answer in answers) == [200] * 50 + [400] * 10
    listed = client.get(f"/rlr/score?job={job}").json()["waiting"]
    assert len({each["file"] for each in listed}) == 50


def test_a_second_click_is_asked_for_while_a_run_trains(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "at_work", lambda runs: ["fox-001"])
    job = client.post("/rlr/score").json()["job"]
    client.put(f"/rlr/score/{job}/picture", params={"name": "a.png"}, content=picture())
    assert (
        client.post(f"/rlr/score/{job}/start", json={"prompt": "x"})
        .json()["ask"]
        .startswith("fox-001 is training.")
    )
    assert "fox-001" in client.post("/rlr/compare", json={}).json()["ask"]
    assert "ask" not in client.post("/rlr/compare", json={"sure": True}).json()


def test_settings_over_http(client: TestClient, home: Path):
    shown = client.get("/rlr/settings").json()
    given = {name: [line["folder"] for line in lines] for name, lines in shown["folders"].items()}
    told = client.post("/rlr/settings/folders", json={**given, "loras": [str(home)]}).json()
    assert told["folders"]["loras"] == [{"folder": str(home), "there": True, "path": str(home)}]
    assert "no folder" not in client.post("/rlr/settings/theme", json={"theme": "dark"}).text
    assert client.post("/rlr/settings/theme", json={"theme": ["dark"]}).status_code == 400
    assert client.get("/rlr/settings").json()["theme"] == "dark"
    assert "RLR" in dict(client.get("/rlr/settings/installed").json()["lines"])


def test_old_jobs_go_but_for_one_at_work(tmp_path: Path):
    kind = Jobs(tmp_path, "nothing", 3)
    names = [f"20200101-00000{k}-abcdef" for k in range(5)]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "somebody's").mkdir()
    Worker.of(works=True).write(tmp_path / names[0] / "worker.json")
    fresh = kind.new().name
    assert kind.names() == [fresh, names[4], names[3], names[0]] and (tmp_path / "somebody's").is_dir()


def test_a_process_that_ends_without_a_word_is_told(tmp_path: Path):
    folder = Jobs(tmp_path, "no_such_module", 3).new()
    assert jobs.told(folder)["state"] == "waiting"
    Jobs(tmp_path, "no_such_module", 3).start(folder, {"x": 1})
    end = time.monotonic() + 30
    while jobs.told(folder)["state"] == "working" and time.monotonic() < end:
        time.sleep(0.1)
    told = jobs.told(folder)
    assert told["state"] == "died" and "no_such_module" in told["error"]


def test_one_job_at_a_time_and_the_next_as_soon_as_it_says_that_it_is_done(tmp_path: Path):
    kind = Jobs(tmp_path, "no_such_module", 3)
    first = kind.new()
    Worker.of(works=True).write(first / "worker.json")  # a process that lives
    with pytest.raises(RunError, match="another one"):
        kind.start(kind.new(), {})
    jobs.tell(first, {"state": "finished"})
    kind.start(kind.new(), {})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "﻿# mine\r\nein größerer Kreis\r\n猫".encode()),
        ("p.txt", "ein größerer Kreis\n猫\n".encode("utf-16")),
        ("p.toml", 'prompts = ["ein größerer Kreis", "猫"]'.encode()),
        ("p.jsonl", '"ein größerer Kreis"\n{"prompt": "猫"}'.encode()),
    ],
)
def test_a_file_of_prompts_is_read_as_by_the_command_line(tmp_path: Path, name: str, content: bytes) -> None:
    from ui.pages.fields import uploaded

    (tmp_path / name).write_bytes(content)
    assert uploaded(str(tmp_path / name)) == "ein größerer Kreis\n猫"


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    import gradio

    from ui.pages.fields import uploaded

    (tmp_path / "p.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(gradio.Error, match=r"the prompts file p\.txt is not UTF-8"):
        uploaded(str(tmp_path / "p.txt"))
