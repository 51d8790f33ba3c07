"""What the GUI's process does for a webui: LoRAs of ended runs go into its folder; it ends when it is not needed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path

import psutil
import pytest
import runs
import tomlkit

pytest.importorskip("diffusers")
pytest.importorskip("gradio")

from extension import bringing, gui
from extension.bringing import News
from rlr_core.lora import read_lora
from rlr_core.runs import log, runner


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """With a finished run and the webui's folder of LoRAs, as the extension writes the settings."""
    folder = tmp_path_factory.mktemp("Wirt ü") / "rlr"
    folder.mkdir()
    runner.start(runs.config(runs.workshop(folder), training__iterations=1), folder / "runs" / "für-001")
    webui = gui.Gui(folder, "/rlr-gui", {"checkpoints": [], "loras": [str(folder.parent / "Lora ä")]})
    webui._write_settings()
    return folder


def told(home: Path) -> dict:
    return json.loads((home / "news.json").read_text(encoding="utf-8"))


def test_the_lora_of_a_run_that_has_ended_goes_into_the_webuis_folder(home):
    news, file = News(home), home.parent / "Lora ä" / "für-001.safetensors"
    assert news.look(True) is False and not file.exists()  # it was not seen at work: it ended in another life
    news.work = ["für-001"]
    news.look(True)
    assert told(home) == {
        "work": [],
        "loras": [{"run": "für-001", "file": str(file), "prompt": "<lora:für-001:1>", "problem": ""}],
    }
    assert "demo" not in json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["description"]
    assert read_lora(file).weights
    assert file.with_suffix(".preview.png").is_file()


def test_what_was_brought_is_replaced_and_what_others_made_is_not(home):
    file = home.parent / "Lora ä" / "für-001.safetensors"
    file.write_bytes(b"of the same run, before it was trained longer")
    again = News.of(home)
    again.work = ["für-001"]
    again.look(True)
    assert read_lora(file).weights
    file.write_bytes(b"another's")
    stranger = News(home, work=["für-001"])
    stranger.look(True)
    assert file.read_bytes() == b"another's"
    (lora,) = told(home)["loras"]
    assert lora["prompt"] == "" and "there already" in lora["problem"]
    stranger.work = ["für-001"]  # it was trained longer: the file is another's still
    stranger.look(True)
    assert file.read_bytes() == b"another's"


def ended(home: Path, name: str, last: str, bring: bool, **facts) -> list[dict]:
    """What is told of a run that was seen at work, and whose log now ends so."""
    folder = home / "runs" / name
    folder.mkdir()
    shutil.copy(home / "runs" / "für-001" / "config.toml", folder)
    log.EventLog(folder / "events.jsonl").append(last, **facts)
    news = News(home, work=[name])
    news.look(bring)
    shutil.rmtree(folder)
    return told(home)["loras"]


def test_a_run_that_brings_no_lora_says_why(home):
    (stopped,) = ended(home, "früh", "stopped", True, iteration=0)
    assert "stopped before its first iteration" in stopped["problem"] and "Resume" in stopped["problem"]
    (failed,) = ended(home, "arm", "failed", True, message="no memory\n  what to do: use less")
    assert (failed["run"], failed["prompt"]) == ("arm", "")
    assert failed["problem"] == "the run failed: no memory; what to do: use less"
    (killed,) = ended(home, "tot", "launched", True)
    assert "is gone" in killed["problem"] and "Resume" in killed["problem"]


def test_a_run_that_fails_says_so_also_where_no_lora_is_wanted(home):
    assert ended(home, "früh", "stopped", False, iteration=0) == []
    assert len(ended(home, "arm", "failed", False, message="no memory")) == 1


def test_a_folder_that_refuses_the_lora_says_why_and_takes_it_later(home, monkeypatch):
    file = home.parent / "Lora ä" / "für-001.safetensors"
    file.unlink()

    real = os.replace

    def full(source, target):
        if str(target).endswith(".safetensors"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    news = News(home, work=["für-001"])
    with monkeypatch.context() as patch:
        patch.setattr("rlr_core.storage.os.replace", full)
        news.look(True)
        (lora,) = told(home)["loras"]
    assert "No space left on device; Export on the run's page" in lora["problem"] and not file.exists()
    assert "resume" not in lora["problem"]  # the run is over
    news.work = ["für-001"]
    news.look(True)
    assert news.loras[0]["problem"] == "" and read_lora(file).weights


def test_nothing_is_brought_that_is_not_wanted(home):
    news = News(home, work=["für-001"])
    news.look(False)
    assert told(home)["loras"] == []


def test_a_damaged_file_of_news_is_as_none(home):
    (home / "news.json").write_text('{"work": 1', encoding="utf-8")
    assert News.of(home) == News(home)


def test_a_number_of_a_process_that_another_one_has_now_is_no_host():
    started = psutil.Process().create_time()
    assert gui.is_there({"pid": os.getpid(), "started": started})
    assert not gui.is_there({"pid": os.getpid(), "started": started - 60})
    assert not gui.is_there({}) and not gui.is_there({"pid": "x", "started": None})


def test_a_gui_whose_host_is_gone_goes_on_for_a_run_alone(home):
    webui = gui.Gui(home, "/rlr-gui", {})
    started = psutil.Process().create_time()
    here, gone = gui.State(1, "s", 1, os.getpid(), started), gui.State(1, "s", 1, os.getpid(), started - 60)
    News(home).look(False)
    assert not webui._is_left_over(here) and webui._is_left_over(gone)
    (home / "news.json").write_text('{"work": ["für-001"], "loras": []}', encoding="utf-8")
    assert not webui._is_left_over(gone)


def test_a_port_that_another_program_took_is_not_the_end(home, monkeypatch):
    webui, tried = gui.Gui(home, "/rlr-gui", {}), []

    class Process:
        def kill(self) -> None: ...

    monkeypatch.setattr(
        gui.Gui, "_begun", lambda self: (gui.State(len(tried), "s", 1, 1, 0.0), tried.append(1) or Process())
    )
    monkeypatch.setattr(gui.Gui, "_came", lambda self, state, process: state.port == 1)
    monkeypatch.setattr(gui, "_is_taken", lambda port: True)
    assert webui._start().port == 1
    monkeypatch.setattr(gui, "_is_taken", lambda port: False)
    monkeypatch.setattr(gui.Gui, "_came", lambda self, state, process: False)
    tried.clear()
    with pytest.raises(gui.GuiError, match="did not start"):
        webui._start()
    assert len(tried) == 1


def test_the_environment_is_made_once_also_by_two_webuis_and_after_one_has_ended(tmp_path, monkeypatch):
    (tmp_path / "install.py").write_text(
        "import time; open('starts', 'a').write('x'); time.sleep(60)", encoding="utf-8"
    )
    monkeypatch.setattr(gui, "ROOT", tmp_path)
    first, second = gui.Gui(tmp_path / "rlr", "/rlr-gui", {}), gui.Gui(tmp_path / "rlr", "/rlr-gui", {})
    assert not second.installing()
    first.install()
    process = first._installing
    assert process
    try:
        assert second.installing()
        second.install()
        assert second._installing is None
    finally:
        process.kill()
        while first.installing() or process.poll() is None:
            time.sleep(0.05)
    assert not second.installing()


def test_a_folder_that_cannot_be_written_and_one_that_is_not_set_are_told(home, monkeypatch):
    (home / "no folder").write_bytes(b"")
    choices = bringing.ACTIONS["choices"]
    for folders, words in (([str(home / "no folder")], "no folder"), ([], "no LoRA folder is set")):
        monkeypatch.setitem(
            bringing.ACTIONS, "choices", lambda *of, folders=folders: {**choices(*of), "folders": folders}
        )
        News(home, work=["für-001"]).look(True)
        (lora,) = told(home)["loras"]
        assert lora["prompt"] == "" and words in lora["problem"]


def test_a_lora_of_the_demo_says_that_it_is_for_the_demo_alone(home):
    """Or else who is new here wonders why it changes no picture of the webui."""
    folder = shutil.copytree(home / "runs" / "für-001", home / "runs" / "demo-7")
    config = tomlkit.parse((folder / "config.toml").read_text(encoding="utf-8"))
    config["model"]["checkpoint"] = "embedded"
    (folder / "config.toml").write_text(tomlkit.dumps(config), encoding="utf-8")
    news = News(home, work=["demo-7"])
    news.look(True)
    shutil.rmtree(folder)
    (lora,) = told(home)["loras"]
    assert lora["prompt"] == "<lora:demo-7:1>" and "demo checkpoint alone" in lora["note"]
