"""The node that trains, as ComfyUI runs it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy_bed
import pytest
import torch

from rlr_core.errors import (
    CheckpointError,
    ConfigError,
    EstimatorError,
    PlanError,
    PromptError,
    RewardError,
    RunError,
    StorageError,
)
from rlr_core.runs import RunDirectory, resume
from rlr_core.trainer import Iteration

SMALL = {
    "iterations": 2, "batch_size": 2, "rank": 2, "steps": 2, "width": 64, "height": 64, "held_out_pairs": 2,
    "preview_every": 1, "learning_rate": 0.02,
}  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    """ComfyUI's output folder."""
    monkeypatch.setattr(comfy_bed.node_file("folders"), "output_folder", lambda: str(tmp_path))
    return tmp_path / "rlr"


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    return dict(zip(("model", "clip", "vae"), comfy_bed.objects(), strict=True))


def prompts(text: str = "a cat\na dog", **more: Any) -> Any:
    return comfy_bed.node_file("prompts").Prompts().listed(text, "", "", **more)[0]


def reward(name: str = "sharpness") -> Any:
    return comfy_bed.node_file("rewards").named(name)


def estimator(name: str) -> Any:
    return {"estimator": {"name": name}}


def run(objects: dict[str, Any], **changes: Any) -> tuple[Any, ...]:
    """With the inputs' defaults, but for `SMALL` and `changes`."""
    node = comfy_bed.node_file("train_node").Train
    kinds = node.INPUT_TYPES()["required"]
    defaults = {name: kind[1]["default"] for name, kind in kinds.items() if "default" in kind[1]}
    wired = {"reward": reward(), "prompts": prompts(), "estimator": estimator("zeroth")}
    with torch.inference_mode():
        return node().train(**objects, **{**defaults, **wired, **SMALL, **changes}, unique_id="7")["result"]


def test_it_gives_the_model_with_the_lora_its_history_and_pictures(home, objects):
    model, lora, history, previews, folder = run(objects)
    assert model.model is objects["model"].model and model.patches and not objects["model"].patches
    assert any(value.abs().max() > 0 for name, value in lora.items() if name.endswith("lora_up.weight"))
    assert len(history["loss"]) == 2 and previews.shape[0] == 4 and previews.shape[3] == 3
    assert previews.min() >= 0 and previews.max() <= 1
    assert Path(folder) == home / "run-001" and RunDirectory(home / "run-001").finished
    # the same graph again, after a restart: nothing is left to do
    again = run(objects)
    assert again[4] == folder and torch.equal(again[3], previews) and again[2] == history
    # as the user chose, or with another seed, it is another run
    fresh = comfy_bed.node_file("going_on").FRESH
    assert run(objects, when_queued_again=fresh)[4].endswith("run-002")
    assert run(objects, seed=1)[4].endswith("run-003")


def test_messages_name_the_workflow_that_the_node_is_in(home, objects, monkeypatch):
    """Nodes of other workflows have the same numbers."""
    live, routes, told, asked = comfy_bed.node_file("live"), comfy_bed.node_file("routes"), [], []

    def hear(event: str, facts: dict[str, Any]) -> None:
        told.append(facts)
        asked.append(routes.at_work("7"))

    monkeypatch.setattr(live, "send", hear)
    run(objects, extra_pnginfo={"workflow": {"id": "one"}})
    assert {facts["workflow"] for facts in told} == {"one"}
    assert asked[0]["workflow"] == "one" and asked[0]["run"] == "run-001" and asked[-1] == {}
    run(objects, seed=1, extra_pnginfo=None)
    assert told[-1]["workflow"] == ""


def test_that_there_is_no_matplotlib_is_no_news_on_the_node(home, objects, monkeypatch):
    """ComfyUI has none, and the node draws curves itself."""
    live, told = comfy_bed.node_file("live"), []
    monkeypatch.setattr(live, "send", lambda event, facts: told.append(facts))
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    folder = run(objects)[4]
    assert "reward.png could not be made" in (Path(folder) / "events.jsonl").read_text(encoding="utf-8")
    assert not [facts["note"] for facts in told if facts["note"]]


def test_a_cancel_that_a_layer_of_the_network_notices_is_told_as_one(home, objects, monkeypatch):
    live, told, calls = comfy_bed.node_file("live"), [], []
    monkeypatch.setattr(live, "send", lambda event, facts: told.append(facts))
    network = objects["model"].model.diffusion_model
    forward = network.forward

    def noticing(*given: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:
            raise live.Interrupted
        return forward(*given, **options)

    monkeypatch.setattr(network, "forward", noticing)
    with pytest.raises(live.Interrupted):
        run(objects)
    assert told[-1]["state"] == "stopped" and not told[-1]["note"]


def test_after_cancel_the_same_graph_goes_on(home, objects, monkeypatch):
    live, told = comfy_bed.node_file("live"), []
    monkeypatch.setattr(live, "send", lambda event, facts: told.append(facts))
    with monkeypatch.context() as changes:
        changes.setattr(live, "processing_interrupted", lambda: any(fact["iteration"] for fact in told))
        with pytest.raises(live.Interrupted):
            run(objects)
    assert RunDirectory(home / "run-001").state().state == told[-1]["state"] == "stopped"
    assert (home / "run-001" / "rlr-lora.safetensors").is_file() and not live.LATEST
    with pytest.raises(RunError, match="queue the same graph again"):
        resume(home / "run-001")
    told.clear()
    history = run(objects)[2]
    assert RunDirectory(home / "run-001").finished and not (home / "run-002").exists()
    assert len(history["loss"]) == 2 and told[-1]["state"] == "finished" and told[-1]["node"] == "7"


def test_it_goes_on_with_no_run_of_another_model_or_clip_or_scheduler(home, objects):
    first, other = run(objects)[4], dict(objects)
    other["model"] = objects["model"].clone()
    other["model"].model_options = {"sampler_cfg_function": _scaled(0.7)}
    folders = {first, run(other)[4]}
    other["model"].model_options = {"sampler_cfg_function": _scaled(0.8)}
    folders.add(run(other)[4])
    assert len(folders) == 3 and run(objects)[4] == first


def _scaled(factor: float) -> Any:
    return lambda given: given["uncond"] + factor * given["cond_scale"] * (given["cond"] - given["uncond"])


def test_stages_a_mix_and_settings_reach_the_run(home, objects):
    files, method = comfy_bed.node_file("rewards"), comfy_bed.node_file("method")
    mixed = files.Combine().combined(
        mix_scale="start",
        reward_1=reward("sharpness"),
        weight_1=2.0,
        reward_2=reward("jpeg-compressibility"),
        weight_2=-1.0,
    )[0]
    texts = {"coarse": "a shape", "mid": "a cat", "fine": "fur", "reward_prompt": "a cat", "negative": "grey"}
    staged = (
        comfy_bed.node_file("prompts")
        .Stages()
        .staged(more=prompts("a dog"), mid_from=0.3, fine_from=0.6, blend=0.0, **texts)[0]
    )
    defaults = {name: kind[1].get("default", kind[0][0] if isinstance(kind[0], list) else None)
                for name, kind in method.Settings.INPUT_TYPES()["required"].items()}  # fmt: skip
    settings = method.Settings().chosen(**{**defaults, "targets": "attention+feedforward", "alpha": 1.0})[0]
    preset = method.Preset().chosen("black-box-unbiased")[0]
    folder = run(objects, reward=mixed, prompts=staged, settings=settings, estimator=preset, steps=3)[4]
    config = RunDirectory(Path(folder)).config
    assert config.reward.mix == {"sharpness": 2.0, "jpeg-compressibility": -1.0}
    assert config.prompts.train[0] == "a dog" and "fine: fur" in config.prompts.train[1]
    assert config.prompts.negative == "grey" and "at: 0.3, 0.6" in config.prompts.train[1]
    assert (
        config.lora.targets == "attention+feedforward" and config.lora.alpha == 1.0 and config.lora.rank == 2
    )


def test_a_run_whose_folder_is_renamed_at_work_stops_and_goes_on_there(home, objects, monkeypatch):
    live = comfy_bed.node_file("live")
    tell = live.Telling.__call__

    def renaming(self: Any, event: Any) -> None:
        tell(self, event)
        if isinstance(event, Iteration) and event.iteration == 2:
            self.run.rename(home / "my best fox #1")

    with monkeypatch.context() as changes:
        changes.setattr(live.Telling, "__call__", renaming)
        with pytest.raises(StorageError, match=r"run-001(.|\n)*put the folder back"):
            run(objects, iterations=4, settings={"output": {"checkpoint_every": 1}})
    done = run(objects, iterations=4, settings={"output": {"checkpoint_every": 1}})
    assert Path(done[4]).name == "my best fox #1" and len(done[2]["loss"]) == 4
    assert not (home / "run-001" / "events.jsonl").exists()


def test_settings_are_told_as_inputs_of_nodes(home, objects, monkeypatch):
    """The core names its settings; on a node people look for inputs."""
    advice = r"raise batch_size, or set name = nft of RLR: estimator \(advanced\)"
    with pytest.raises(CheckpointError, match=advice):
        run(objects, estimator=estimator("learned_critic"))  # two iterations are too few for it
    with pytest.raises(ConfigError, match=r"\bbatch_size\b") as caught:
        run(objects, batch_size=0)
    assert "training." not in str(caught.value)
    told: list[str] = []
    monkeypatch.setattr(comfy_bed.node_file("live"), "send", lambda event, facts: told.append(facts["note"]))
    comfy_bed.node_file("live").Telling("7", home, 2).tell(
        "", note="set sampling.eta = 1, or --preset published"
    )
    assert told == ["set eta = 1 of RLR: settings, or RLR: estimator with the preset published"]


def test_what_cannot_be_is_told_in_words(home, objects, monkeypatch):
    with pytest.raises(PromptError, match=r"no prompts\n.*each line"):
        run(objects, prompts=prompts(" \n# nothing\n"))
    with pytest.raises(RewardError, match=r"pickscore.*not on this machine"):
        run(objects, reward=reward("pickscore"))
    with pytest.raises(RewardError, match="single one"):
        run(objects, held_out_reward=comfy_bed.node_file("rewards").Combine().combined(
            mix_scale="start", reward_1=reward(), reward_2=reward("jpeg-compressibility"))[0])  # fmt: skip
    with pytest.raises(EstimatorError, match=r"no gradient\n(.|\n)*RLR: estimator with the preset black-box"):
        run(objects, estimator=estimator("rlr"))
    with pytest.raises(ConfigError, match="width 64 with height 0"):
        run(objects, height=0)
    empty = SimpleNamespace(first_stage_model=None)  # what ComfyUI's loader gives for a file without a VAE
    for kind, lacking in (("clip", None), ("vae", None), ("vae", empty)):
        with pytest.raises(CheckpointError, match=f"without a {kind.upper()}"):
            run({**objects, kind: lacking})
    wide = SimpleNamespace(
        tokenize=lambda text: text,
        encode_from_tokens_scheduled=lambda text: [[torch.zeros(1, 77, 2048), {}]],
    )
    with pytest.raises(CheckpointError, match="2048 numbers wide"):
        run({**objects, "clip": wide})
    assert not home.exists()

    def full(*given: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(comfy_bed.node_file("training"), "start", full)
    with pytest.raises(PlanError, match="checkpoint_denoiser"):
        run(objects)
