"""The command line as a user meets it: what it prints, what it writes, and what it says of bad input."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

import runs

from rlr_core import config
from rlr_core.cli import main
from rlr_core.cli.progress import Narrator
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.log import EventLog
from rlr_core.trainer import Painting

HEAVY = "torch", "diffusers", "transformers", "peft", "open_clip", "gradio", "matplotlib"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def desk(workshop, tmp_path, monkeypatch) -> Path:
    """An own working folder with a config file, as a user has."""
    shutil.copytree(workshop, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tiny.toml").write_text(config.to_toml(runs.config(tmp_path)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rlr(*arguments: str) -> int:
    return main(list(arguments))


# light


def imported(modules: list[str], heavy: tuple[str, ...]) -> dict[str, list[str]]:
    """By module, which of the `heavy` libraries are there once it is imported, all in one process and in turn."""
    code = (
        "import importlib, json, sys\nfound = {}\n"
        f"for name in {modules}:\n    importlib.import_module(name)\n"
        f"    found[name] = [m for m in {heavy} if m in sys.modules]\nprint(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_imports_are_light():
    modules = ["rlr_core", "rlr_core.config", "rlr_core.cli"]
    assert imported(modules, HEAVY) == {name: [] for name in modules}


def test_libraries_are_loaded_when_used():
    rooms = ["chain", "lora", "models", "rewards", "estimators", "trainer", "runs.runner"]
    modules = [f"rlr_core.{room}" for room in rooms]
    heavy = "diffusers", "transformers", "peft", "open_clip", "gradio", "matplotlib"
    assert imported(modules, heavy) == {name: [] for name in modules}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as done:
        rlr(*arguments)
    assert done.value.code == 0 and "rlr" in capsys.readouterr().out


def test_python_m(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rlr_core", "runs", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == f"no runs in {tmp_path}\n"


# a run from beginning to end


def test_train_tells_what_it_does(desk, capsys):
    assert rlr("train", "tiny.toml", "--set", "training.iterations=3") == 0
    out, err = capsys.readouterr()
    assert "runs/tiny-001" in out and "Held-out score at the start: 0." in out
    assert out.count("Painting 3 pictures for the score at the start …") == 1
    assert out.count("Painting 3 pictures for the score at the end …") == 1
    assert "Check after iteration 2: held-out score 0." in out and ", 95% confidence, 3 pairs)" in out
    assert "Preview" not in out, "so few pictures have no score of their own"
    assert "The pictures " in out and "95% confidence, 3 pairs" in out
    assert "3/3" in err and "reward " in err and "at the start " in err
    for name in ("rlr-lora.safetensors", "before_after.png", "reward.png", "report.html"):
        path = Path("runs/tiny-001") / name
        assert str(path) in out and path.is_file()
    assert rlr("runs") == 0
    assert "runs/tiny-001" in (listed := capsys.readouterr().out) and "finished" in listed and "3/3" in listed


def test_what_training_waits_for_is_said_once(capsys):
    """By what the run tells, whatever the config lets expect; previews and checks are quick, and only on a terminal."""
    with Narrator(config.load(None)) as narrator:
        for purpose in ("calibration", "before", "preview", "during", "after"):
            for done in (0, 2, 4):
                narrator(Painting(0, purpose, done, 4))
    assert capsys.readouterr().out.splitlines() == [
        "Painting 4 pictures for the scale of the reward …",
        "Painting 4 pictures for the score at the start …",
        "Painting 4 pictures for the score at the end …",
    ]


def test_on_a_terminal_a_bar_shows_the_pictures(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with Narrator(config.load(None)) as narrator:
        narrator(Painting(0, "during", 0, 4))
        narrator(Painting(0, "during", 2, 4))
        narrator._painting.refresh()
        assert "2/4" in terminal.getvalue() and not narrator._painting.disable
        narrator(Painting(0, "during", 0, 4))  # the memory was not enough, and it begins anew
        assert narrator._painting.n == 0


def test_the_next_run_has_the_next_number(desk, capsys):
    Path("runs/tiny-001").mkdir(parents=True)
    settings = ["training.iterations=1", "output.evaluation=0", "output.preview_every=0"]
    assert rlr("train", "tiny.toml", *(word for s in settings for word in ("--set", s))) == 0
    assert Path("runs/tiny-002/report.html").is_file()
    assert "Held-out score" not in (out := capsys.readouterr().out) and "Painting" not in out


@pytest.mark.parametrize("how", ["ctrl-c", "rlr stop"])
def test_a_run_is_stopped_and_resumed(how, desk, capsys):
    command = [
        sys.executable,
        "-m",
        "rlr_core",
        "train",
        "tiny.toml",
        "--run",
        "run",
        "--set",
        "training.iterations=2000",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, **pipes) as training:
        deadline = time.monotonic() + 120
        while (
            not any('"type": "iteration"' in event for event in runs.told(Path("run")))
            and time.monotonic() < deadline
        ):
            time.sleep(0.1)
        if how == "ctrl-c":
            training.send_signal(signal.SIGINT)
        else:
            assert rlr("stop", "run") == 0
        out, _ = training.communicate(timeout=60)
    assert training.returncode == 0, out
    assert "nothing is lost" in out and "rlr resume run" in out
    state = RunDirectory(Path("run")).state()
    assert state.state == "stopped" and 1 <= state.iteration < 2000
    text = Path("run/config.toml").read_text(encoding="utf-8")
    Path("run/config.toml").write_text(
        text.replace("iterations = 2000", f"iterations = {state.iteration + 1}"), encoding="utf-8"
    )
    capsys.readouterr()
    assert rlr("resume", "run") == 0
    assert f"stopped at iteration {state.iteration}" in capsys.readouterr().out
    assert RunDirectory(Path("run")).state().state == "finished"


def test_the_demo_runs_on_what_is_shipped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ["training.iterations=2", "output.evaluation=4", "output.previews=1", "sampling.steps=6"]
    assert rlr("demo", "--run", "demo", *(word for s in settings for word in ("--set", s))) == 0
    assert "95% confidence, 4 pairs" in capsys.readouterr().out
    assert Path("demo/rlr-demo.safetensors").is_file() and Path("demo/report.html").is_file()


# pictures and scores


def test_sample_with_and_without_a_lora(desk, capsys):
    assert rlr("train", "tiny.toml", "--run", "run", "--set", "training.iterations=2") == 0
    settings = [
        "--set",
        "model.checkpoint=checkpoint",
        "--set",
        "sampling.steps=3",
        "--set",
        "model.threads=1",
    ]
    torch.set_num_threads(3)
    lora = ["--lora", "run/rlr-lora.safetensors"]
    assert rlr("sample", "a b", "c", "--count", "2", "--seed", "7", "--out", "plain", *settings) == 0
    assert rlr("sample", "a b", "c", "--count", "2", "--seed", "7", "--out", "with", *lora, *settings) == 0
    assert rlr("sample", "a b", "--seed", "8", "--out", "second", *settings) == 0
    assert rlr("sample", "a b", "--seed", "7", "--out", "off", "--strength", "0", *lora, *settings) == 0
    assert sorted(path.name for path in Path("plain").iterdir()) == [
        "000.png",
        "001.png",
        "002.png",
        "003.png",
        "sheet.png",
    ]
    plain, with_lora, second, off = (
        Path(name, "000.png").read_bytes() for name in ("plain", "with", "second", "off")
    )
    assert plain != with_lora and plain == off
    pictures = [np.asarray(Image.open(Path(name)), dtype=int) for name in ("second/000.png", "plain/001.png")]
    assert abs(pictures[0] - pictures[1]).max() <= 1, "seeds count up, to the rounding of another batch"
    assert second != plain
    sweep = [*lora, "--strengths", "0,0.5,1", "--set", "inference.sampler=dpmpp_2m"]
    assert rlr("sample", "a b", "--seed", "7", "--out", "sweep", *sweep, *settings) == 0
    assert torch.get_num_threads() == 3, "given back"
    names = [f"000-strength-{strength}.png" for strength in ("0", "0.5", "1")] + ["sheet.png"]
    assert sorted(path.name for path in Path("sweep").iterdir()) == sorted(names)
    assert len({Path("sweep", name).read_bytes() for name in names}) == 4
    capsys.readouterr()
    assert (
        rlr("score", "plain/000.png", "plain/001.png", "--prompt", "a b", "--reward", "reward.py:bright") == 0
    )
    _, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].endswith("plain/000.png") and lines[2].endswith("mean of 2")
    one, two, mean = (float(line.split()[0]) for line in lines)
    assert mean == pytest.approx((one + two) / 2, abs=1e-3) and 0 < one < 1


def test_lora_files_are_looked_into_converted_and_merged(desk, capsys):
    assert rlr("train", "tiny.toml", "--run", "run", "--set", "training.iterations=2") == 0
    file = "run/rlr-lora.safetensors"
    capsys.readouterr()
    assert rlr("lora", "info", file) == 0
    told = capsys.readouterr().out
    assert "kohya" in told and "rlr.estimator: rlr" in told
    assert (
        rlr("lora", "convert", file, "other.safetensors", "--to", "diffusers", "--dtype", "float16", "--fold")
        == 0
    )
    assert rlr("lora", "merge", "other.safetensors", "checkpoint", "merged", "--strength", "0.5") == 0
    assert "in merged" in capsys.readouterr().out and Path("merged/model_index.json").is_file()
    assert rlr("lora", "convert", file, "other.txt") == 2
    assert rlr("lora", "merge", file, "checkpoint", "merged") == 2
    assert "merged is a folder" in capsys.readouterr().err


def test_config_prints_a_file_that_says_the_same(tmp_path, capsys):
    assert rlr("config", "--set", "training.iterations=7") == 0
    text = capsys.readouterr().out
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    assert config.load(tmp_path / "run.toml") == config.load(None, ["training.iterations=7"])
    assert text.count("#") > 30


def test_a_preset_is_what_a_config_starts_from(capsys):
    assert rlr("config", "--preset", "published") == 0
    assert 'name = "published"' in capsys.readouterr().out
    assert rlr("config", "--preset", "pulished") == 2
    assert "did you mean 'published'" in capsys.readouterr().err


def test_estimators_are_listed(capsys):
    assert rlr("estimators") == 0
    out = capsys.readouterr().out
    assert all(
        name in out
        for name in ("rlr", "published", "v1", "v2", "v3", "ddpo", "draft", "alignprop", "full_bp")
    )


# bad input: what came, what was expected, what to do; exit code 2; nothing is left behind


def truncated(desk: Path) -> None:
    file = desk / "checkpoint" / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def pickled(desk: Path) -> None:
    file = desk / "checkpoint" / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(b"\x80\x02}q\x00." * 1000)


def empty_prompts(desk: Path) -> None:
    (desk / "prompts.txt").write_text("\n", encoding="utf-8")


def latin_prompts(desk: Path) -> None:
    (desk / "prompts.txt").write_bytes("grün".encode("latin-1"))


def used(desk: Path) -> None:
    (desk / "run").mkdir()
    (desk / "run" / "config.toml").write_text("", encoding="utf-8")


def nothing(desk: Path) -> None:
    pass


BAD = [
    ("missing checkpoint", nothing, ["model.checkpoint=nowhere"], "nowhere"),
    ("truncated checkpoint", truncated, [], "diffusion_pytorch_model.safetensors"),
    ("no safetensors", pickled, [], "diffusion_pytorch_model.safetensors"),
    ("unknown key", nothing, ["training.learning_rat=1"], "did you mean 'learning_rate'?"),
    ("unknown section", nothing, ["trainng.iterations=1"], "did you mean 'training'?"),
    ("empty prompts", empty_prompts, ["prompts.file=prompts.txt"], "prompts.txt is empty"),
    ("prompts not UTF-8", latin_prompts, ["prompts.file=prompts.txt"], "prompts.txt is not UTF-8"),
    (
        "NaN reward",
        nothing,
        ["reward.name=reward.py:nan", "estimator.name=half"],
        "two grey pictures nan, nan",
    ),
    ("reward of wrong shape", nothing, ["reward.name=reward.py:shape", "estimator.name=half"], "of shape ()"),
    (
        "reward that raises",
        nothing,
        ["reward.name=reward.py:broken", "estimator.name=half"],
        "raised TypeError",
    ),
    ("no gradient", nothing, ["reward.name=reward.py:bright"], "which has no gradient"),
    ("no noise", nothing, ["sampling.eta=0"], "η = 0 with a half-order part"),
    ("long sub-chain", nothing, ["estimator.sub_chain_length=5"], "sub-chains of 5 steps where 3 steps"),
    ("folder in use", used, [], "already in use"),
    ("folder that cannot be made", nothing, ["--run", "tiny.toml/run"], "cannot be written"),
]


@pytest.mark.parametrize(
    ("spoil", "settings", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_bad_input(spoil, settings, message, desk, capsys):
    spoil(desk)
    pairs = settings if settings[:1] == ["--run"] else [word for s in settings for word in ("--set", s)]
    assert rlr("train", "tiny.toml", "--run", "run", *pairs) == 2
    error = capsys.readouterr().err
    assert message in error and "expected:" in error and "what to do:" in error
    assert "Traceback" not in error
    assert not list(desk.rglob("*-lora.safetensors")) and not list(desk.rglob(".*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.toml"], "no config file at nowhere.toml"),
        (["train", "."], "cannot be read"),
        (["resume", "nowhere"], "no run in nowhere"),
        (["stop", "nowhere"], "no run in nowhere"),
        (["sample", "a", "--lora", "nowhere.safetensors"], "no file at nowhere.safetensors"),
        (["sample", "a", "--count", "0"], "--count 0"),
        (["sample", "a", "--strengths", "0,1"], "--strengths without --lora"),
        (["sample", "a", "--lora", "x", "--strengths", "0,b"], "strengths 0,b"),
        (
            ["score", "nowhere.png", "--prompt", "a", "--reward", "reward.py:bright"],
            "nowhere.png cannot be read",
        ),
    ],
)
def test_bad_arguments(arguments, message, desk, capsys):
    assert rlr(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "expected:" in error and "what to do:" in error


def test_a_reward_of_a_wrong_name(desk, capsys):
    Image.new("RGB", (8, 8)).save("picture.png")
    assert rlr("score", "picture.png", "--prompt", "a", "--reward", "embeded") == 2
    assert "did you mean 'embedded'?" in capsys.readouterr().err


def test_a_run_that_is_not_running_is_not_stopped(desk, capsys):
    used(desk)
    EventLog(desk / "run" / "events.jsonl").append("stopped", iteration=1)
    assert rlr("stop", "run") == 2 and "is not running" in capsys.readouterr().err


def test_a_defect_of_ours_is_not_disguised(desk, monkeypatch):
    """Unexpected errors keep their traceback."""
    from rlr_core.runs import runner

    def defect(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(runner, "start", defect)
    with pytest.raises(ZeroDivisionError):
        rlr("train", "tiny.toml")


def test_an_interruption_before_anything_is_there(desk, monkeypatch, capsys):
    from rlr_core.runs import runner

    monkeypatch.setattr(runner, "start", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert rlr("train", "tiny.toml") == 130 and "interrupted" in capsys.readouterr().err
