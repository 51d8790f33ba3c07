"""The GUI without a browser: what it reads from run folders, whom it lets in, and what it refuses."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import runs

pytest.importorskip("diffusers")
pytest.importorskip("gradio")

from fastapi.testclient import TestClient
from starlette.datastructures import Headers

from rlr_core.config import RunConfig, load, to_dict
from rlr_core.embedded import DEMO
from rlr_core.errors import ConfigError, PromptError
from rlr_core.families import FAMILIES
from rlr_core.runs import log, runner
from rlr_core.runs.state import RunState
from ui import cards, charts, choosing, form, words
from ui.cards import sentence
from ui.form import Filled, compose, filled_by
from ui.guard import LARGEST, Rules, refusal
from ui.live import Live, Lives
from ui.pages import fields
from ui.server import application
from ui.workspace import FILE, Settings, Workspace


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A GUI's home with one finished run, in a folder with a space, an umlaut and a Chinese sign."""
    folder = tmp_path_factory.mktemp("home") / "Bilder für 画"
    folder.mkdir()
    workshop = runs.workshop(folder)
    runner.start(runs.config(workshop, training__iterations=3), folder / "runs" / "läuft 1")
    return folder


@pytest.fixture(scope="module")
def client(home) -> TestClient:
    return TestClient(application(Workspace.open(home), Rules()), base_url="http://127.0.0.1:7866")


# one run


def test_a_run_is_followed_as_its_log_grows(home, tmp_path):
    """In two halves or at once: the same."""
    whole = (home / "runs" / "läuft 1" / "events.jsonl").read_bytes()
    file = tmp_path / "events.jsonl"
    halves = Live(log.Follower(file))
    for cut in range(0, len(whole), 700):
        file.write_bytes(whole[: cut + 700])
        halves.follow()
    once = Live(log.Follower(home / "runs" / "läuft 1" / "events.jsonl"))
    once.follow()
    assert halves.iterations == once.iterations and len(once.iterations) == 3
    assert halves.checks == once.checks and halves.previews == once.previews and halves.others == once.others


def test_what_a_resumed_run_went_back_behind_is_void(tmp_path):
    events = log.EventLog(tmp_path / "events.jsonl")
    for iteration in (1, 2, 3):
        events.append("iteration", iteration=iteration, reward=0.1 * iteration, reward_error=0.0, parts={})
    live = Live(log.Follower(events.path))
    live.follow()
    events.go_back(1)
    events.append("iteration", iteration=2, reward=0.7, reward_error=0.0, parts={})
    live.follow()
    assert [(each["iteration"], each["reward"]) for each in live.iterations] == [(1, 0.1), (2, 0.7)]


def test_a_log_that_is_another_one_is_read_anew(home, tmp_path):
    directory = Workspace.open(home).run("läuft 1")
    lives = Lives()
    assert lives.of(directory).done == 3
    whole = directory.events_file.read_bytes()
    try:
        directory.events_file.write_bytes(whole[:200].rpartition(b"\n")[0] + b"\n")
        assert lives.of(directory).done == 0
    finally:
        directory.events_file.write_bytes(whole)
    assert lives.of(directory).done == 3


def test_time_left_is_that_of_the_pace():
    live = Live(log.Follower(Path("none")))
    live.iterations = [{"iteration": k, "time": 100.0 + 2 * k, "seconds": 1.5} for k in range(1, 41)]
    assert live.seconds_left(100) == pytest.approx(120)
    assert Live(log.Follower(Path("none"))).seconds_left(100) is None


def test_what_a_run_measures_of_itself_is_told():
    """How far it is from the checkpoint, and where its sub-chains start; nothing where nothing was measured."""
    live = Live(log.Follower(Path("none")))
    assert "nats" not in cards._pace(live) and "sub-chains" not in cards._pace(live)
    live._take({"type": "ranked", "seq": 1, "iteration": 0, "tau": [0.1, 0.5], "starts": [4, 9]})
    live._take({"type": "iteration", "seq": 2, "iteration": 1, "step": {"distance": 0.2512}})
    told = cards._pace(live)
    assert "0.25 nats" in told and "steps 5 to 9" in told
    live._take({"type": "ranked", "seq": 3, "iteration": 1, "tau": [], "starts": []})
    assert "start as set" in cards._pace(live)


def test_what_a_run_does_before_its_first_iteration():
    live, state = Live(log.Follower(Path("none"))), RunState(Path("none"), "running", iterations=9)
    assert "before training" in sentence(state, live, stopping=False)
    live.previews.append({"seq": 1, "iteration": 0, "file": "a.png"})
    assert sentence(state, live, stopping=False) == "The first iteration is under way."


# curves


def test_a_curve_of_any_length_is_drawn_with_few_points():
    points = [(float(k), k / 10_000, 0.01) for k in range(10_000)]
    thin = charts.thinned(points)
    assert len(thin) <= charts.POINTS and thin[0] == points[0] and thin[-1] == points[-1]
    assert all(y == pytest.approx(x / 10_000, abs=1e-3) for x, y, _ in thin)
    svg = charts.chart("a <b>", [charts.Curve("c", "main", points)], 800, 200, 10_000)
    assert len(svg) < 40_000 and "a &lt;b&gt;" in svg and svg.count("<polyline") == 1


def test_ticks_are_round_numbers_in_the_range():
    for low, high in ((0, 1), (0.349, 0.958), (-3, 900), (1e-6, 2e-6), (5.0, 5.1)):
        ticks = charts.nice(low, high)
        assert 2 <= len(ticks) <= 3 and all(low <= tick <= high + 1e-12 for tick in ticks)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (95, "2 min"),
        (3600, "60 min"),
        (3600 * 3.5, "3 h 30 min"),
        (3600 * 20, "20 h"),
        (86400 * 9, "9 days"),
    ],
)
def test_durations_are_as_people_say_them(seconds, told):
    assert words.duration(seconds) == told


# from the page to a config


def test_nothing_changed_is_the_demo():
    made = compose(Filled(), "models/rewards")
    demo = load(DEMO)
    assert made.training == demo.training and made.sampling == demo.sampling and made.output == demo.output
    assert made.model == demo.model and made.reward.name == demo.reward.name


def test_every_setting_is_on_the_page():
    """A new one in the core appears without an edit here."""
    shown = {each.name for _, _, settings in form.settings() for each in settings}
    every = {f"{section}.{key}" for section, table in to_dict(RunConfig()).items() for key in table}
    assert shown | set(form.SIMPLE) == every and not shown & set(form.SIMPLE)
    assert all(
        each.comment
        for _, _, settings in form.settings()
        for each in settings
        if each.name not in UNCOMMENTED
    )


UNCOMMENTED: set[str] = set()


def test_a_config_comes_back_from_the_page():
    filled = Filled(
        rewards={"embedded": 0.7, "sharpness": 0.3},
        prompts="a red ring on grass\n# no\n\na blue star on sand",
        judged="a green circle on slate",
        preset="black-box",
        rank=4,
        iterations=7,
        seed=3,
        name="mine",
        advanced={
            "training.learning_rate": "0.001",
            "lora.targets": "all",
            "memory.checkpoint_denoiser": "true",
            "model.device": "",
        },
    )
    made = compose(filled, "models/rewards")
    assert made.prompts.train == ["a red ring on grass", "a blue star on sand"] and made.reward.mix == {
        "embedded": 0.7,
        "sharpness": 0.3,
    }
    assert (made.lora.rank, made.training.iterations, made.training.seed, made.training.learning_rate) == (
        4,
        7,
        3,
        1e-3,
    )
    again = compose(filled_by(made), "models/rewards")
    assert again == made


def test_prompts_per_stage():
    filled = Filled(stages=("two people\na cat", "hands\npaws", "skin\nfur"), boundaries=(0.4, 0.7))
    made = compose(filled, "").prompts
    assert made.train == [
        "coarse: two people | mid: hands | fine: skin",
        "coarse: a cat | mid: paws | fine: fur",
    ]
    assert made.boundaries == [0.4, 0.7]
    with pytest.raises(PromptError, match="2 coarse, 1 mid, 2 fine"):
        compose(Filled(stages=("a\nb", "c", "d\ne"), boundaries=(0.4, 0.7)), "")


@pytest.mark.parametrize(
    ("filled", "told"),
    [
        (Filled(rewards={}), "no reward"),
        (Filled(advanced={"training.learning_rate": "fast"}), "training.learning_rate = 'fast'"),
        (Filled(advanced={"training.ema": "7"}), "training.ema = 7"),
        (Filled(iterations=0), "training.iterations = 0"),
        (Filled(name="../up"), "output.name"),
        (
            Filled(checkpoint="nowhere.safetensors", rewards={"sharpness": 1.0}, prompts="a"),
            "there is no checkpoint",
        ),
    ],
)
def test_what_cannot_be_is_said_in_the_cores_words(filled, told):
    from rlr_core.errors import RLRError

    with pytest.raises(RLRError, match=re.escape(told)):
        compose(filled, "")


def test_a_checkpoint_of_ones_own_wants_prompts_and_a_reward():
    with pytest.raises(PromptError, match="no prompts"):
        compose(Filled(checkpoint="mine.safetensors", rewards={"sharpness": 1.0}), "")
    with pytest.raises(ConfigError, match="embedded reward"):
        compose(Filled(checkpoint="mine.safetensors", prompts="a"), "")


# the workspace


def test_settings_are_kept(tmp_path):
    workspace = Workspace.open(tmp_path)
    folders = form.dataclasses.replace(
        workspace.settings.folders, checkpoints=("a b", 'c"d', "ü画"), runs="r"
    )
    workspace.save(Settings(folders))
    assert Workspace.open(tmp_path).settings == Settings(folders)
    (tmp_path / FILE).write_text("[folders]\nruns = 3\n")
    with pytest.raises(ConfigError, match=r"folders\.runs = 3"):
        Workspace.open(tmp_path)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../runs", "/etc", "a\\b", "", "x" * 300, "a\0b", "a\nb"])
def test_a_name_never_leaves_the_folder_of_runs(tmp_path, name):
    with pytest.raises(ConfigError):
        Workspace.open(tmp_path).run_folder(name)


# who may ask


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:7866"}, 200),
        ({"host": "localhost:7866", "origin": "http://localhost:7866"}, 200),
        ({"host": "[::1]:7866"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": ""}, 403),
        ({"host": "127.0.0.1:7866", "origin": "http://evil.example"}, 403),
        ({"host": "127.0.0.1:7866", "origin": "null"}, 403),
        ({"host": "127.0.0.1:7866", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"host": "127.0.0.1:7866", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
        ({"host": "127.0.0.1:7866", "content-length": str(LARGEST + 1)}, 413),
        ({"host": "127.0.0.1:7866", "content-length": "-1"}, 413),
    ],
)
def test_who_is_let_in(headers, status):
    assert refusal(Headers(headers), Rules())[0] == status


def test_with_a_password():
    rules, host = Rules("me:Schlüssel", ("*",)), {"host": "my-machine:7866"}
    import base64

    def told(text: str) -> Headers:
        return Headers({**host, "authorization": f"Basic {base64.b64encode(text.encode()).decode()}"})

    assert refusal(Headers(host), rules)[0] == 401
    assert (
        refusal(told("me:wrong"), rules)[0] == 401
        and refusal(Headers({**host, "authorization": "Basic ?"}), rules)[0] == 401
    )
    assert refusal(told("me:Schlüssel"), rules)[0] == 200


def test_a_home_that_is_not_there_is_made(tmp_path, monkeypatch):
    from ui import __main__ as program

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "_serve", lambda *_: None)
    assert program.main(["--home", str(tmp_path / "new" / "home"), "--port", "1"]) == 0
    assert (tmp_path / "new" / "home").is_dir()


def test_a_home_that_cannot_be_made_is_told(tmp_path, capsys):
    from ui import __main__ as program

    (tmp_path / "file").write_text("")
    assert program.main(["--home", str(tmp_path / "file" / "home"), "--port", "1"]) == 2
    assert "error:" in capsys.readouterr().err


def test_other_machines_want_a_password(capsys):
    from ui.__main__ import main

    assert main(["--listen", "--no-browser"]) == 2
    assert "without --auth" in capsys.readouterr().err
    assert main(["--auth", "nobody", "--no-browser"]) == 2


# what is served


def test_the_page_and_its_list(client):
    assert client.get("/").status_code == 200
    told = client.get("/rlr/runs").json()
    assert (
        told["total"] == 1
        and told["lines"][0]["name"] == "läuft 1"
        and told["lines"][0]["state"] == "finished"
    )
    assert client.get("/rlr/runs", params={"search": "nothing"}).json()["lines"] == []


def test_a_run_is_told_once(client):
    told = client.get("/rlr/run/läuft 1").json()
    assert set(told["pieces"]) == {"head", "pictures", "better", "hood"} and told["state"] == "finished"
    assert told["pieces"]["pictures"]["iterations"] == [0, 2, 3] and "Export" in told["pieces"]["head"]
    again = client.get("/rlr/run/läuft 1", params={"seen": ",".join(told["marks"].values())}).json()
    assert again["pieces"] == {}


def test_pictures_are_small_and_kept(client):
    iteration = client.get("/rlr/run/läuft 1").json()["pieces"]["pictures"]
    path = f"/rlr/picture/läuft 1/previews/{iteration['iterations'][0]:06d}.png"
    got = client.get(path, params={"tile": 0, "of": len(iteration["prompts"]), "side": 256})
    assert (
        got.status_code == 200 and got.headers["content-type"] == "image/webp" and len(got.content) < 100_000
    )
    headers = {"If-None-Match": got.headers["etag"]}
    assert client.get(path, params={"of": len(iteration["prompts"])}, headers=headers).status_code == 304


@pytest.mark.parametrize(
    "path",
    [
        "/rlr/picture/läuft 1/config.toml",
        "/rlr/picture/läuft 1/../../x.png",
        "/rlr/picture/..%2F..%2Fetc/previews/000000.png",
        "/rlr/picture/läuft 1/previews/000000.png?tile=9&of=2",
        "/rlr/picture/läuft 1/previews/000000.png?of=0",
        "/rlr/picture/läuft 1/previews/999999.png",
        "/rlr/picture/läuft 1/previews/000000.png?side=100000",
        "/rlr/run/nobody",
        "/rlr/run/..",
        "/rlr/run/%2Fetc",
        "/rlr/reward/nothing",
        "/runs/../rlr-ui.toml",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=rlr-ui.toml",
        "/gradio_api/file=../../etc/passwd",
        "/static/../../etc/passwd",
    ],
)
def test_nothing_else_is_read(client, path):
    got = client.get(path)
    assert got.status_code in (400, 403, 404, 422), got.text[:200]
    assert "root:" not in got.text and "[model]" not in got.text


@pytest.mark.parametrize(
    "action",
    ["stop", "kill", "preview", "save", "resume", "up", "remove", "delete", "extend", "export", "fly"],
)
@pytest.mark.parametrize(
    "values", [{}, {"name": 3, "iterations": "x", "file": ["/etc"]}, {"folder": "/etc", "as": "../x"}]
)
def test_what_a_finished_run_does_not_do_is_refused(client, home, action, values):
    before = {path: path.stat().st_mtime_ns for path in (home / "runs" / "läuft 1").glob("*.safetensors")}
    got = client.post(f"/rlr/run/läuft 1/{action}", json=values)
    assert got.status_code in (400, 404) and got.json()["error"], got.text
    assert {
        path: path.stat().st_mtime_ns for path in (home / "runs" / "läuft 1").glob("*.safetensors")
    } == before


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"\xff", b"[" * 100_000, b'{"a":' * 1000])
def test_what_is_no_table_is_refused(client, body):
    got = client.post("/rlr/run/läuft 1/extend", content=body, headers={"content-type": "application/json"})
    assert got.status_code in (400, 422), got.text[:200]


def test_a_lora_is_put_into_a_folder_of_a_host(client, home):
    told = client.post("/rlr/run/läuft 1/choices", json={}).json()
    values = {
        "file": told["files"][0],
        "folder": told["folders"][0],
        "as": "für画",
        "format": "auto",
        "precision": "float16",
        "words": "w",
    }
    got = client.post("/rlr/run/läuft 1/export", json=values)
    assert got.status_code == 200 and got.json()["prompt"] == "<lora:für画:1>", got.text
    file = Path(told["folders"][0]) / "für画.safetensors"
    from rlr_core.lora import read_lora

    assert read_lora(file).weights
    assert json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["activation text"] == "w"
    assert file.with_suffix(".preview.png").is_file()
    again = client.post("/rlr/run/läuft 1/export", json=values)
    assert again.status_code == 400 and "there already" in again.json()["error"]
    assert client.post("/rlr/run/läuft 1/export", json={**values, "force": True}).status_code == 200
    outside = client.post("/rlr/run/läuft 1/export", json={**values, "folder": str(home)})
    assert outside.status_code == 400


def test_a_lora_is_merged_into_a_checkpoint(client, home):
    told = client.post("/rlr/run/läuft 1/choices", json={}).json()
    values = {
        "file": told["files"][0],
        "folder": told["checkpoint_folders"][0],
        "as": "für画",
        "strength": "0.5",
    }
    got = client.post("/rlr/run/läuft 1/merge", json=values)
    assert got.status_code == 200, got.text
    written = list(Path(values["folder"]).glob("für画*"))
    assert len(written) == 1 and str(written[0]) in got.json()["told"]
    again = client.post("/rlr/run/läuft 1/merge", json=values)
    assert again.status_code == 400 and "is a folder" in again.json()["error"]
    for wrong in (
        {"strength": "much"},
        {"strength": "0"},
        {"folder": str(home)},
        {"as": "../x"},
        {"file": "../x"},
    ):
        assert (
            client.post("/rlr/run/läuft 1/merge", json={**values, "as": "other", **wrong}).status_code == 400
        )
    assert list(Path(values["folder"]).iterdir()) == written


def test_two_hundred_at_once(client):
    from concurrent.futures import ThreadPoolExecutor

    began = time.process_time()
    with ThreadPoolExecutor(20) as pool:
        told = list(pool.map(lambda _: client.get("/rlr/run/läuft 1").status_code, range(200)))
    assert set(told) == {200} and time.process_time() - began < 60


def test_a_stopped_run_goes_on_and_is_exported(home, client):
    """The request to stop lies in its folder until it goes on; that is no run that is stopping."""
    folder, painted = home / "runs" / "stopped", []
    workshop = home
    runner.start(
        runs.config(workshop, training__iterations=4),
        folder,
        lambda event: painted.append(event),
        should_stop=lambda: (folder / "previews" / "000002.png").exists(),
    )
    (folder / "stop").touch()
    told = client.get("/rlr/run/stopped").json()
    assert told["state"] == "stopped"
    buttons = re.findall('data-action="([a-z]+)"', told["pieces"]["head"])
    assert buttons == ["resume", "export", "compare"]
    choices = client.post("/rlr/run/stopped/choices", json={}).json()
    assert choices["files"][0] == "rlr-lora.safetensors", (
        "the last one, and not the best, unless there was an alarm"
    )


def test_a_page_begins_with_the_run_that_is_cloned(home, workspace_page):
    page, asked = workspace_page
    fields = page.fields
    told = page._begun(None, asked(clone="läuft 1"))
    assert told[fields.prompts]["value"] == "a b\nc d\ne f" and told[fields.iterations] == 3
    assert "läuft 1" in told[fields.cloned] and "no checkpoint" not in told[fields.about]
    assert "gone" in page._begun(None, asked(clone="gone"))[fields.cloned]
    assert page._begun(None, asked()) == {fields.cloned: ""}


def test_a_page_begins_as_it_was_left_unless_its_address_says_otherwise(workspace_page):
    page, asked = workspace_page
    fields = page.fields
    draft = {name: box.value for name, box in fields.inputs.items()}
    draft |= {"prompts": "a cat", "rewards": ["embedded", "sharpness"], "weights": "1, 2", "iterations": 2.5}
    told = page._begun(draft, asked())
    assert told[fields.prompts]["value"] == "a cat" and told[fields.weights]["visible"]
    assert (
        told[fields.rewards]["value"] == ["embedded", "sharpness"] and "Start afresh" in told[fields.cloned]
    )
    assert page._begun(draft, asked(fresh="1")) == {page.draft: None, fields.cloned: ""}
    assert page._begun({"prompts": "of an older version"}, asked()) == {fields.cloned: ""}
    around = asked()
    around.headers["rlr-checkpoint"] = "/of the/webui.safetensors"
    told = page._begun(draft, around)
    assert told[fields.checkpoint]["value"] == "/of the/webui.safetensors", "that is chosen there now"
    assert told[fields.prompts]["value"] == "a cat"
    with pytest.raises(ConfigError, match=r"training\.iterations = 2\.5"):
        page._config({box: draft[name] for name, box in fields.inputs.items()})


def test_a_page_begins_with_a_picture_of_the_webui(workspace_page):
    page, asked = workspace_page
    told = page._begun(None, asked(picture="a fox\nNegative prompt: blur\nSteps: 1, Size: 64x96"))
    advanced = page.fields.advanced
    assert told[page.fields.prompts] == "a fox" and told[advanced["sampling.size"]] == "[64, 96]"
    assert told[advanced["prompts.negative"]] == "blur" and "that picture" in told[page.fields.cloned]
    told = page._begun(None, asked(picture=""))
    assert "does not say how it was made" in told[page.fields.cloned] and page.fields.prompts not in told


@pytest.mark.parametrize(
    "query", [{}, {"fresh": "1"}, {"picture": "a fox\nSteps: 1, Size: 64x64"}, {"clone": "läuft 1"}]
)
def test_whatever_a_page_begins_with_has_its_place(home, query):
    """Gradio throws all away where one component is not named as an output."""
    import gradio

    from ui.pages.train import train

    with gradio.Blocks() as blocks:
        train(Workspace.open(home), blocks)
    begun: Any = next(each for each in blocks.fns.values() if each.name == "_begun")
    told = begun.fn(None, SimpleNamespace(query_params=query, headers={"rlr-checkpoint": form.EMBEDDED}))
    assert len(told) > 3 and set(told) <= set(begun.outputs)


def test_a_webui_without_a_checkpoint_is_told(workspace_page):
    page, asked = workspace_page
    request = asked()
    request.headers["rlr-checkpoint"] = ""
    assert "no checkpoint" in page._begun(None, request)[page.fields.cloned]


def test_a_wrong_checkpoint_changes_nothing_else(workspace_page):
    fields = workspace_page[0].fields
    data = {fields.checkpoint: "/no/such.safetensors", fields.rewards: ["embedded"], fields.iterations: 12}
    told = fields.chosen(data)
    assert set(told) == {fields.about} and "/no/such.safetensors" in told[fields.about]
    told = fields.chosen({**data, fields.checkpoint: form.EMBEDDED})
    assert fields.iterations not in told, "that the user has set"
    assert (
        fields.chosen({**data, fields.checkpoint: form.EMBEDDED, fields.iterations: 200})[fields.iterations]
        == 200
    )


def test_iterations_are_those_of_the_checkpoints_family(workspace_page):
    fields, xl = workspace_page[0].fields, FAMILIES["sdxl"]
    usual = xl.defaults["training.iterations"].value
    data = {fields.checkpoint: str(xl.configs), fields.rewards: [], fields.iterations: 40}
    assert choosing.usual_iterations(str(xl.configs)) == usual != 40 == choosing.usual_iterations("/no/such")
    assert (
        usual in choosing.all_usual_iterations()
        and data[fields.iterations] in choosing.all_usual_iterations()
    )


@pytest.fixture
def workspace_page(home):
    """The page Train, and what asks for it: its address's query."""
    import gradio

    from ui.pages.train import TrainPage

    with gradio.Blocks() as blocks:
        page = TrainPage(Workspace.open(home))
        page.fields.checkpoint_card()
        page.fields.reward_card()
        page.fields.prompt_card()
        page.fields.summary()
        page.fields.advanced_drawer()
        page.wire(blocks)

    def asked(**query: str) -> SimpleNamespace:
        return SimpleNamespace(query_params=query, headers={})

    return page, asked


@pytest.mark.parametrize(
    ("filled", "message"),
    [
        (Filled(rewards={"sharpness": 1.0}), "choose the method black-box"),
        (Filled(rewards={"embedded": 1.0, "jpeg-compressibility": 1.0}, preset="published"), "no gradient"),
        (Filled(stages=("", " ", "")), "a prompt per stage, and no prompt"),
        (Filled(iterations=-5), "training.iterations"),
        (Filled(rank=0), "lora.rank"),
    ],
)
def test_what_cannot_be_is_told_before_a_run_is_queued(filled, message):
    with pytest.raises((ConfigError, PromptError), match=message):
        compose(filled, "rewards")


def test_rewards_without_a_gradient_train_by_the_method_for_them():
    assert (
        compose(Filled(rewards={"sharpness": 1.0}, preset="black-box"), "rewards").reward.name == "sharpness"
    )
    advanced = {"estimator.name": "reinforce"}
    assert (
        compose(Filled(rewards={"sharpness": 1.0}, advanced=advanced), "rewards").estimator.name
        == "reinforce"
    )
    unbiased = compose(Filled(rewards={"sharpness": 1.0}, preset="black-box-unbiased"), "rewards")
    assert unbiased.estimator.name == "rlr"
    assert fields.rewarded(["sharpness"], "", "default")[1]["value"] == "black-box"
    assert fields.rewarded(["embedded"], None, "black-box")[1]["value"] == "default"


def test_a_reward_of_ones_own_is_taken_at_its_word(tmp_path):
    """Whether it has a gradient is read in its file, which is not run."""
    blind, seeing = tmp_path / "blind.py", tmp_path / "seeing.py"
    text = (
        "raise SystemExit\ndef score(images, prompts): ...\n# differentiable\nscore.differentiable = False\n"
    )
    blind.write_text(text, encoding="utf-8")
    seeing.write_text("def score(images, prompts): ...\nscore.differentiable = True\n", encoding="utf-8")
    for name in (str(blind), f"{blind}:score"):
        assert fields.rewarded([], f" {name} ", "default")[1]["value"] == "black-box"
        assert fields.rewarded(["embedded"], name, "default")[0]["visible"], "two have weights"
        with pytest.raises(ConfigError, match="choose the method black-box"):
            compose(Filled(rewards={name: 1.0}), "rewards")
        assert compose(Filled(rewards={name: 1.0}, preset="black-box"), "rewards").reward.name == name
    for name in (f"{seeing}:score", f"{tmp_path / 'none.py'}:score"):
        assert fields.rewarded([], name, "black-box")[1]["value"] == "default"
        assert compose(Filled(rewards={name: 1.0}), "rewards").estimator.name == "lookahead"


def test_prompts_go_into_the_boxes_of_stages_and_back():
    text = "a cat\ncoarse: a beach | mid: a dog | fine: fur\n1: x | 2: y"
    boxes = form.in_boxes(text)
    assert boxes == ("a cat\na beach\nx y", "a cat\na dog\nx y", "a cat\nfur\nx y")
    assert form.out_of_boxes(boxes) == "a cat\ncoarse: a beach | mid: a dog | fine: fur\nx y"
    assert form.in_boxes("") == ("", "", "")
