"""The tab of A1111 and Forge in a webui of stubs, with the two generations of Gradio that such hosts have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import install

HOST = Path(__file__).with_name("host_fake_webui.py")
HOSTS = {
    "A1111": ["gradio==3.41.2", "httpx==0.24.1", "psutil==5.9.5", "pydantic<2", "fastapi==0.94.0"],
    "Forge": [
        "gradio==4.40.0",
        "httpx==0.24.1",
        "psutil==5.9.5",
        "pydantic==2.8.2",
        "fastapi==0.104.1",
        "huggingface-hub<0.27",
    ],
    "Forge Neo": [
        "gradio==4.40.0",
        "httpx==0.28.1",
        "psutil==6.1.1",
        "pydantic==2.10.6",
        "fastapi==0.127.1",
        "huggingface-hub==0.36.2",
    ],
}
"""What is installed with each; Forge Neo also has other names than Forge (`host_fake_webui.py`)."""


@pytest.fixture(scope="module", params=HOSTS)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the extension answered there; its folder has a space and an umlaut."""
    uv = install.find_uv()
    if uv is None:
        pytest.skip("no uv to make the host's environment with")
    folder = tmp_path_factory.mktemp("Wirt ü")
    python = folder / "env" / ("Scripts/python.exe" if install.WINDOWS else "bin/python")
    for command in (
        ["venv", "-q", "--python", sys.executable, folder / "env"],
        ["pip", "install", "-q", "--python", python, *HOSTS[request.param]],
    ):
        made = subprocess.run([uv, "--no-config", *command], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"the host's environment could not be made: {made.stderr[-300:]}")
    command = [python, "-W", "ignore", HOST, folder, request.param]
    asked = subprocess.run(command, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr[-3000:]
    found = json.loads(asked.stdout.splitlines()[-1])
    assert f"gradio=={found['gradio']}" in HOSTS[request.param]
    return {**found, "neo": request.param == "Forge Neo"}


def seen(answer: list[Any]) -> dict[str, Any]:
    """What reached the GUI."""
    assert answer[0] == 200, answer
    return json.loads(answer[1])


def test_the_tab_is_a_frame_and_loads_nothing_heavy(told: dict[str, Any]) -> None:
    assert told["tab"][0] == ["RLR", "rlr"] and 'src="/rlr-gui/"' in told["tab"][1]
    assert told["heavy"] == [] and told["mounts"] == 1


def test_the_start_is_cheap(told: dict[str, Any]) -> None:
    """Nothing is imported that the host has not; no frame makes it search all its modules (0.15 s a callback)."""
    assert told["imported"] == [] and told["homeless"] == []


def test_the_environment_is_made_on_the_button_alone(told: dict[str, Any]) -> None:
    assert "Make the environment" in told["not installed"][1]
    assert told["foreign make"][0] == 403 and told["not made"] is False
    assert told["make"] == 303 and told["made"]
    assert "RLR was updated" in told["updated"][1] and "Update the environment" in told["updated"][1]
    assert "what the last one said" in told["not updated"][1] and "the last one" not in told["updated"][1]
    seen(told["live, not current"])  # a run that is at work can be seen and stopped


def test_where_the_environment_is_gone_with_the_gui_the_button_is_back(told: dict[str, Any]) -> None:
    posted, asked = told["GUI and environment gone"]
    assert posted[0] == 503 and "RLR was started again: reload the page." in posted[1]
    assert asked[0] == 200 and "Make the environment" in asked[1]


def test_the_host_serves_no_file_of_the_gui(told: dict[str, Any]) -> None:
    assert told["blocked"]  # its secret and its pictures lie below the host's folder, which /file= serves


def test_requests_are_passed_on_without_the_hosts_cookies(told: dict[str, Any]) -> None:
    got = seen(told["get"])
    assert got["path"] == "/rlr/runs?a=%C3%A9"
    names = {name.lower(): value for name, value in got["headers"].items()}
    assert "cookie" not in names and names["authorization"].startswith("Basic ")
    assert names["host"].startswith("127.0.0.1:") and names["x-forwarded-host"] == "localhost"
    put = seen(told["put"])
    assert (put["method"], put["path"], put["body"]) == ("PUT", "/rlr/a%20b", "ü")


def test_below_a_path_it_is_found_with_and_without_a_proxy_that_takes_it_away(told: dict[str, Any]) -> None:
    assert told["below a path"] == ["/rlr/runs"] * 4


def test_the_hosts_gzip_holds_no_events_back(told: dict[str, Any]) -> None:
    assert told["events"][2]["content-encoding"] == "identity"
    assert told["get"][2]["content-encoding"] == "gzip"  # the middleware is there: the check above can fail


@pytest.mark.parametrize("name", ["cross-site", "same-site", "rebound", "listening"])
def test_refused(told: dict[str, Any], name: str) -> None:
    assert told[name][0] == 403 and told[name][1].startswith("RLR: ")


def test_only_who_has_logged_in_is_let_through(told: dict[str, Any]) -> None:
    assert all(answer == [401, "RLR: log in to the webui first."] for answer in told["stranger"])
    assert all(told[name][0] == 401 for name in ("wrong cookie", "old cookie", "no api login"))
    for name in ("logged in", "logged in, 4", "api login", "by number"):
        seen(told[name])


def test_the_gui_is_told_what_the_host_has_chosen(told: dict[str, Any]) -> None:
    chosen, nothing = (
        {name.lower(): value for name, value in seen(told[name])["headers"].items()}
        for name in ("join", "nothing chosen")
    )
    assert chosen["rlr-checkpoint"] == "/models/%C3%A4%20a%20%5B1%5D" and chosen["rlr-vae"] == "/models/b.pt"
    assert nothing["rlr-checkpoint"] == "/models/first" and nothing["rlr-vae"] == ""
    assert not [name for name in seen(told["get"])["headers"] if name.lower().startswith("rlr-")]


def test_what_forge_calls_modules_is_a_vae(told: dict[str, Any]) -> None:
    answer, vae = told["Forge's VAE"]
    assert unquote({k.lower(): v for k, v in seen(answer)["headers"].items()}["rlr-vae"]) == vae


def test_a_host_without_a_checkpoint_says_so(told: dict[str, Any]) -> None:
    headers = {k.lower(): v for k, v in seen(told["no checkpoint"])["headers"].items()}
    assert headers["rlr-checkpoint"] == headers["rlr-vae"] == ""


def test_reload_ui_changes_nothing(told: dict[str, Any]) -> None:
    life = told["life"]
    for name in ("started", "reloaded", "reloaded twice"):
        assert life[name] == [200, "the GUI"] and life[f"tabs, {name}"] == 1
    assert life["starts"] == 1 and life["threads"] == 1


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("half made", 200, "needs a Python environment of its own"),
        ("no room for the environment", 200, "got 0.1 GB of free disk space for"),
        ("no room for the environment", 200, "The environment is not complete."),
        ("no room for the environment", 200, "Make the environment"),
        ("no room for its log", 503, "cannot be written"),
        ("no room for its log", 503, "make room, or allow it"),
        ("no room for the GUI's state", 503, "make room, or allow it"),
        ("damaged environment", 503, "No module named"),
        ("damaged environment", 503, "If its environment is damaged, delete "),
        ("no port is free", 503, "no port of this machine is free"),
        ("another webui starts it", 503, "another webui is starting RLR in this folder: wait a minute"),
    ],
)
def test_the_tab_says_what_is_wrong(told: dict[str, Any], name: str, status: int, words: str) -> None:
    answer = told["life"][name]
    assert answer[0] == status and words in answer[1]


def test_a_page_that_is_open_is_told_in_words_that_the_gui_starts_again(told: dict[str, Any]) -> None:
    *before, last = told["life"]["while it starts again"]
    assert before and all(
        answer == [503, "text/plain; charset=utf-8", "RLR is starting …"] for answer in before
    )
    assert last[0] == 200 and last[2] == "the GUI"


def test_another_program_at_the_port_of_a_gui_that_ended_is_not_taken_for_it(told: dict[str, Any]) -> None:
    for page in ("open", "new"):
        assert told["life"][f"another at its port, page {page}"] == [200, "the GUI"]


def test_a_gui_that_nobody_could_find_again_is_not_left_behind(told: dict[str, Any]) -> None:
    assert told["life"]["left behind"] == 0


def test_the_card_is_lent_while_a_run_is_at_work(told: dict[str, Any]) -> None:
    lending, back = (
        told["lending"],
        [] if told["neo"] else ["taken back"],
    )  # Forge and Neo do so by themselves
    assert lending["no home"] is False  # nothing is made on the disk of who never opened the tab
    assert lending["no model"] == (["lent"] if told["neo"] else [])
    assert lending["a model comes"] == ["lent"] and lending["it stays"] == []  # as after a restart amid a run
    assert lending["another checkpoint"] == ([] if told["neo"] else ["lent"])
    assert lending["ended"] == [*back, "refreshed"]
    assert lending["begun"] == ["lent"] and lending["goes on"] == []
    assert lending["after a picture"] == [*back, "lent"]
    assert lending["comments"] == [
        "RLR is training on this card (run-002): both are slow, and its memory may not be enough for both."
    ]
    assert lending["old news"] == back and lending["begun again"] == ["lent"]


def test_a_host_may_have_more_folders(told: dict[str, Any]) -> None:
    checkpoints, loras = told["folders"]["checkpoints"], told["folders"]["loras"]
    assert Path(checkpoints[0]).parts[-2:] == ("models", "Stable-diffusion")
    assert checkpoints[1:] == (["/more"] if told["neo"] else [])
    if told["neo"]:
        assert loras == ["/loras", "/more loras"]


def test_each_setting_takes_effect_at_once(told: dict[str, Any]) -> None:
    lending = told["lending"]
    assert lending["no longer wanted"] == ([] if told["neo"] else ["taken back"])
    assert lending["ended unlent"] == lending["not wanted"] == []
    assert set(told["settings"]) == {"rlr_bring_loras", "rlr_lend_card"}
    assert lending["host"]["bring"] is True and lending["host"]["started"] > 0
    assert lending["host, without LoRAs"]["bring"] is False


def test_of_two_webuis_with_one_folder_the_one_that_is_there_is_heard(told: dict[str, Any]) -> None:
    assert told["lending"]["another"] is False and told["lending"]["another, gone"] is True


def test_the_news_are_for_the_bar(told: dict[str, Any]) -> None:
    assert told["news"][0] == 200 and json.loads(told["news"][1])["loras"] == ["run-001"]
