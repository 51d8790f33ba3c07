"""A run whose config was edited, cut off or lost: what may change is taken and said, the rest is refused by name."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import runs
from test_result_first import materials, quiet, run

from rlr_core.config import (
    RunConfig,
    changes,
    free_settings,
    from_dict,
    load,
    missing_settings,
    to_dict,
    to_toml,
)
from rlr_core.errors import CheckpointError, ConfigError, RunError
from rlr_core.runs import log, resume
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.resuming import restore_config
from rlr_core.trainer import Edited, Iteration, Warned


class Killed(BaseException):
    """What no run can answer."""


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> Path:
    """A run of 8 iterations that was stopped after 5."""
    folder = tmp_path_factory.mktemp("left") / "run"

    def stop(event: Any) -> None:
        if isinstance(event, Iteration) and event.iteration == 5:
            raise Killed

    with pytest.raises(Killed):
        run(folder, stop, training__iterations=8)
    assert (folder / "checkpoints" / "000005.pt").is_file()
    return folder


@pytest.fixture
def folder(left, tmp_path) -> Path:
    return Path(shutil.copytree(left, tmp_path / "run"))


def edit(folder: Path, **settings: Any) -> None:
    """As somebody does with an editor: `training__iterations=3`."""
    file = folder / "config.toml"
    config = load(file)
    for name, value in settings.items():
        section, _, key = name.partition("__")
        table = dataclasses.replace(getattr(config, section), **{key: value})
        config = dataclasses.replace(config, **{section: table})
    file.write_text(to_toml(config, comments=False), encoding="utf-8")


def go_on(folder: Path) -> list[Any]:
    told: list[Any] = []
    resume(folder, told.append, materials=materials())
    assert RunDirectory(folder).state().state == "finished"
    return told


def done(told: list[Any]) -> list[int]:
    return [event.iteration for event in told if isinstance(event, Iteration)]


# what may change

ALLOWED: dict[str, Any] = {
    "training__iterations": 6,
    "training__learning_rate": 0.001,
    "training__schedule": "cosine",
    "output__preview_every": 3,
    "output__previews": 1,
    "output__checkpoint_every": 1,
    "output__keep_checkpoints": 1,
    "output__format": "diffusers",
    "output__precision": "float16",
    "output__lora": "best",
    "alarm__action": "rollback",
    "memory__painted": 1,
    "estimator__chunk": 2,
    "model__threads": 2,
}


def test_what_may_change_is_taken_and_said(folder):
    edit(folder, **{name: value for name, value in ALLOWED.items() if name != "output__format"})
    told = go_on(folder)
    (edited,) = (event for event in told if isinstance(event, Edited))
    assert edited.iteration == 5 and "training.iterations = 6 (so far 8)" in edited.settings
    assert len(edited.settings) == len(ALLOWED) - 1
    assert done(told) == [6]
    (logged,) = (event for event in log.read(folder / "events.jsonl") if event["type"] == "edited")
    assert logged["settings"] == edited.settings
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["000006.pt"]


def test_what_did_not_change_is_not_said(folder):
    assert not any(isinstance(event, (Edited, Warned)) for event in go_on(folder))


def test_what_was_said_is_not_said_again(folder):
    edit(folder, training__learning_rate=0.001)

    def stop(event: Any) -> None:
        if isinstance(event, Iteration) and event.iteration == 7:
            raise Killed

    with pytest.raises(Killed):
        resume(folder, stop, materials=materials())
    assert not any(isinstance(event, Edited) for event in go_on(folder))


@pytest.mark.parametrize("iterations", [5, 9])
def test_a_run_is_as_long_as_the_config_says_now(iterations, folder):
    edit(folder, training__iterations=iterations)
    assert done(go_on(folder)) == list(range(6, iterations + 1))
    assert (folder / "rlr-lora.safetensors").is_file() and (folder / "report.html").is_file()


def test_fewer_iterations_than_are_done_are_refused(folder):
    edit(folder, training__iterations=4)
    with pytest.raises(RunError, match=r"iterations = 4 (.|\n)*5 are done(.|\n)*5, to end the run there"):
        resume(folder, quiet, materials=materials())


# what may not

REFUSED: dict[str, tuple[Any, str]] = {
    "estimator__name": ("ddpo", "estimator.name = 'ddpo' (so far 'lookahead')"),
    "estimator__unit": (False, "estimator.unit = False (so far True)"),
    "training__ema": (0.9, "training.ema = 0.9 (so far 0.0)"),
    "training__seed": (7, "training.seed = 7 (so far 0)"),
    "training__batch_size": (8, "training.batch_size = 8 (so far 4)"),
    "output__evaluation": (3, "output.evaluation = 3 (so far 4)"),
    "output__name": ("other", "output.name = 'other' (so far 'rlr-lora')"),
    "alarm__pictures": (2, "alarm.pictures = 2 (so far 16)"),
    "lora__rank": (4, "lora.rank = 4 (so far 2)"),
    "sampling__steps": (5, "sampling.steps = 5 (so far 4)"),
    "memory__optimizer": ("adam8bit", "memory.optimizer = 'adam8bit' (so far 'adam')"),
    "prompts__train": (["x"], "prompts.train = ['x'] (so far ['a b', 'c d', 'e f'])"),
    "model__checkpoint": ("/elsewhere/other", "model.checkpoint = '/elsewhere/other' (so far 'foreign')"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_change_is_refused_by_name(name, folder):
    value, told = REFUSED[name]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    edit(folder, **{name: value})
    with pytest.raises(RunError) as caught:
        resume(folder, quiet, materials=materials())
    assert told in str(caught.value) and "put them back and resume" in str(caught.value)
    assert "training.learning_rate" in str(caught.value), "what may change is said"
    noted = "config.toml", "worker.json", "overview.json"
    after = {path: path.read_bytes() for path in before if path.name not in noted}
    assert after.items() <= before.items()


def test_all_that_was_refused_is_said_at_once(folder):
    edit(folder, training__seed=7, training__ema=0.5, training__learning_rate=0.1)
    with pytest.raises(RunError, match=r"training\.seed = 7 .*training\.ema = 0\.5") as caught:
        resume(folder, quiet, materials=materials())
    assert "learning_rate = 0.1" not in str(caught.value)


def named(checkpoint: str, reward: str) -> RunConfig:
    return from_dict({"model": {"checkpoint": checkpoint}, "reward": {"name": reward}})


def test_files_may_lie_elsewhere():
    before = named("/a/x.safetensors", "/a/reward.py:red")
    moved, others = (
        named(f"/b/{x}.safetensors", f"/b/reward.py:{red}") for x, red in (("x", "red"), ("y", "blue"))
    )
    names = ["model.checkpoint", "reward.name"]
    assert [(change.name, change.allowed) for change in changes(before, moved)] == [(n, True) for n in names]
    assert [(change.name, change.allowed) for change in changes(before, others)] == [
        (n, False) for n in names
    ]


def test_every_setting_is_known_to_be_free_or_not():
    assert missing_settings(to_dict(RunConfig())) == []
    names = missing_settings({})
    assert set(free_settings()) < set(names) and len(names) == sum(map(len, to_dict(RunConfig()).values()))
    for name in ("training.iterations", "memory.plan", "model.device", "output.lora"):
        assert name in free_settings()


# a file that was cut off or lost


def test_a_config_that_is_lost_is_restored(folder):
    before = (folder / "config.toml").read_bytes()
    (folder / "config.toml").unlink()
    told = go_on(folder)
    lost = f"{len(missing_settings({}))} settings, from model.checkpoint on"
    assert isinstance(told[0], Warned) and lost in told[0].message
    assert "checkpoint of iteration 5" in told[0].message
    assert told[0].message.replace("\\", "\\\\") in (folder / "events.jsonl").read_text(encoding="utf-8")
    assert (folder / "config.toml").read_bytes() == before


def places_to_cut(text: bytes) -> list[int]:
    """Here and there, within a number whose first digits alone would be another one, and everywhere near the end."""
    number = text.index(b"learning_rate = 0.02") + len(b"learning_rate = 0.")
    end = len(text.rstrip())
    return [*range(0, end, 97), number - 1, number, number + 1, *range(end - 20, end)]


@pytest.mark.parametrize("padding", [b"", bytes(512)])
def test_a_config_that_is_cut_off_anywhere_is_restored(padding, left, folder):
    """Where the end of the file was lost, or is zeros."""
    whole, directory = (left / "config.toml").read_bytes(), RunDirectory(folder)
    for length in places_to_cut(whole):
        directory.config_file.write_bytes(whole[:length] + padding)
        assert "was cut off or lost" in restore_config(directory), length
        assert directory.config == load(left / "config.toml"), length
    directory.config_file.write_bytes(whole.rstrip())
    assert restore_config(directory) == "", "a last line without an end, as some editors leave it"


def test_a_config_that_was_edited_and_then_cut_off(folder):
    edit(folder, training__iterations=7, output__keep_checkpoints=1)
    file = folder / "config.toml"
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.index(b"keep_checkpoints") + 3])
    told = go_on(folder)
    assert "settings, from output.keep_checkpoints on" in told[0].message
    assert done(told) == [6, 7], "what is still there counts"
    assert load(file).output.keep_checkpoints == 2


def test_an_error_of_typing_is_not_taken_for_a_cut(folder):
    text = (folder / "config.toml").read_text(encoding="utf-8")
    (folder / "config.toml").write_text(text.replace("iterations = 8", "iterations = 1O"), encoding="utf-8")
    before = (folder / "config.toml").read_bytes()
    with pytest.raises(ConfigError, match="is not TOML"):
        resume(folder, quiet, materials=materials())
    assert (folder / "config.toml").read_bytes() == before


def test_without_a_checkpoint_nothing_can_be_restored(folder):
    shutil.rmtree(folder / "checkpoints")
    text = (folder / "config.toml").read_text(encoding="utf-8")
    (folder / "config.toml").write_text(text[: text.index("[output]")], encoding="utf-8")
    with pytest.raises(
        RunError, match=r"cut off: \d+ settings are not there, such as output\.name"
    ) as caught:
        resume(folder, quiet, materials=materials())
    assert "start a new run" in str(caught.value)
    (folder / "config.toml").unlink()
    with pytest.raises(RunError, match="no run in"):
        resume(folder, quiet, materials=materials())


def test_before_the_first_checkpoint_everything_may_change(tmp_path):
    folder = tmp_path / "run"

    def stop(event: Any) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        run(folder, stop)
    edit(folder, training__seed=3, training__iterations=2)
    assert done(go_on(folder)) == [1, 2]


# whose checkpoint it is


def test_the_checkpoint_of_another_run_is_passed_over(folder, tmp_path):
    """Of the very same settings."""
    other = tmp_path / "other"
    run(other, training__iterations=8)
    shutil.copy(other / "checkpoints" / "000008.pt", folder / "checkpoints")
    told = go_on(folder)
    assert "000008.pt was passed over" in told[0].message and "of another run" in told[0].message
    assert done(told) == [6, 7, 8]


def test_a_run_that_lost_its_identity_takes_that_of_its_checkpoint(folder):
    identity = (folder / "run.id").read_text(encoding="utf-8")
    (folder / "run.id").unlink()
    go_on(folder)
    assert (folder / "run.id").read_text(encoding="utf-8") == identity


def test_a_run_that_lost_its_log_goes_on(folder):
    events = RunDirectory(folder).checkpoints.newest("").checkpoint.events
    (folder / "events.jsonl").unlink()
    assert done(go_on(folder)) == [6, 7, 8]
    assert min(event["seq"] for event in log.read(folder / "events.jsonl")) > events, (
        "new events are not old ones"
    )


def test_checkpoints_that_are_all_damaged_do_not_begin_anew(folder):
    before = (folder / "events.jsonl").read_bytes()
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        RunError, match=r"no checkpoint in .* can be gone on from \(000005\.pt: (.|\n)*000004\.pt: "
    ):
        resume(folder, quiet, materials=materials())
    assert (folder / "events.jsonl").read_bytes() == before
    shutil.rmtree(folder / "checkpoints")
    assert done(go_on(folder)) == [1, 2, 3, 4, 5, 6, 7, 8], "unless somebody says so"


def test_a_model_that_is_another_one_is_said(folder, monkeypatch):
    """The file that the config names was replaced."""
    import foreign

    monkeypatch.setattr(foreign, "WIDTH", 8)
    with pytest.raises(CheckpointError, match=r"of shape \(2, 16\)\n.* shape \(2, 8\)"):
        resume(folder, quiet, materials=materials())
    monkeypatch.undo()
    kept = RunDirectory(folder).checkpoints
    newest = kept.newest("").checkpoint
    assert newest
    del newest.trainer["watch"]
    kept.save(newest, keep=1)
    before = (folder / "events.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"iteration 5 does not fit what was loaded: KeyError\('watch'\)"):
        resume(folder, quiet, materials=materials())
    assert (folder / "events.jsonl").read_bytes() == before


# the command line


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    pytest.importorskip("diffusers")
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


def test_the_command_restores_and_says_so(workshop, tmp_path, capsys):
    from rlr_core.cli import main
    from rlr_core.runs import start

    folder = tmp_path / "run"

    def stop(event: Any) -> None:
        if isinstance(event, Iteration) and event.iteration == 1:
            raise Killed

    settings = {"training__iterations": 2, "output__evaluation": 0, "alarm__pictures": 0}
    with pytest.raises(Killed):
        start(runs.config(workshop, **settings), folder, stop)
    file = folder / "config.toml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("ema = 0.0", "ema = 0.5"), encoding="utf-8")
    assert main(["resume", str(folder)]) == 2
    assert "training.ema = 0.5 (so far 0.0)" in capsys.readouterr().err
    assert main(["resume", "--detach", str(folder)]) == 2
    assert "training.ema = 0.5 (so far 0.0)" in capsys.readouterr().err
    file.unlink()
    assert main(["resume", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "WARNING: " in told and "was cut off or lost" in told and file.read_text(encoding="utf-8") == text
