"""What TensorBoard and its like are told of a run, and that a run does not hang on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from foreign import ForeignModel, foreign_config

from rlr_core.config import RunConfig, from_dict
from rlr_core.errors import ConfigError
from rlr_core.rewards import FunctionReward
from rlr_core.runs import runner, trackers
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.log import read
from rlr_core.trainer import Materials, Rewards

pytest.importorskip("accelerate")
event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def settings(*names: str, iterations: int = 4) -> RunConfig:
    config = foreign_config("red", training__iterations=iterations)
    return replace(config, output=replace(config.output, trackers=list(names)))


def materials() -> Materials:
    red = FunctionReward("red", True, lambda images, prompts: images[:, 0].mean((1, 2)))
    contrast = FunctionReward("contrast", False, lambda images, prompts: images.flatten(1).std(1))
    return Materials(model=ForeignModel(), rewards=Rewards(red, contrast))


def board(folder) -> event_accumulator.EventAccumulator:
    shown = event_accumulator.EventAccumulator(str(folder / "tensorboard"))
    shown.Reload()
    return shown


def curve(folder, name: str) -> dict[int, float]:
    return {point.step: point.value for point in board(folder).Scalars(name)}


def test_tensorboard_shows_what_is_in_the_log(tmp_path):
    runner.start(settings("tensorboard"), tmp_path / "run", materials=materials())
    told = [each for each in read(tmp_path / "run" / "events.jsonl") if each["type"] == "iteration"]
    reward = next(
        name for name in board(tmp_path / "run").Tags()["scalars"] if name.startswith("reward/trained on")
    )
    shown = curve(tmp_path / "run", reward)
    assert shown == pytest.approx({each["iteration"]: each["reward"] for each in told}, rel=1e-6)
    assert "preview/000" in board(tmp_path / "run").Tags()["images"]


def test_a_resumed_run_goes_on_with_its_curve(tmp_path):
    asked = iter([False] * 10 + [True] * 1000)
    folder = tmp_path / "run"
    runner.start(settings("tensorboard"), folder, materials=materials(), should_stop=lambda: next(asked))
    assert RunDirectory(folder).state().state == "stopped"
    runner.resume(folder, materials=materials())
    assert sorted(curve(folder, "gradient/norm")) == [1, 2, 3, 4]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="trackio, which is not installed"):
        runner.start(settings("trackio"), tmp_path / "run", materials=materials())
    assert not (tmp_path / "run").exists()


def test_an_unknown_one_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'wandb'"):
        from_dict({"output": {"trackers": ["tensorboard", "wanbd"]}})


def test_a_run_outlives_its_trackers(tmp_path, monkeypatch):
    class Broken:
        name = "tensorboard"

        def start(self):
            pass

        def log(self, numbers, step):
            raise OSError("no space left on device")

        def finish(self):
            raise OSError("no space left on device")

    monkeypatch.setitem(trackers.MAKERS, "tensorboard", lambda *_: Broken())
    directory = runner.start(settings("tensorboard"), tmp_path / "run", materials=materials())
    assert directory.state().state == "finished"
    told = [each for each in read(tmp_path / "run" / "events.jsonl") if each["type"] == "warning"]
    assert sum("trackers" in each["message"] for each in told) == 1, "once, not at every iteration"


def test_names_join_only_like_with_like():
    from rlr_core.trainer import Evaluation

    def told(pairs: int) -> set[str]:
        scores = torch.zeros(pairs)
        return set(trackers.scalars(Evaluation("during", [], [], [], scores, scores)))

    assert not told(16) & told(64)
