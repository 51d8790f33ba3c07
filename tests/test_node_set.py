"""The nodes beside the one that trains, and what ComfyUI reads of all of them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy_bed
import numpy as np
import pytest
import torch
from PIL import ImageColor
from test_train_node import objects, prompts, reward, run

from rlr_core.errors import PromptError, RewardError, RunError
from rlr_core.runs.iterations import Iterations
from rlr_core.runs.summary import Summary

__all__ = ["objects"]


@pytest.fixture(scope="module")
def nodes() -> dict[str, Any]:
    comfy_bed.node_file("pack")
    return sys.modules[comfy_bed.PACK].NODE_CLASS_MAPPINGS


def inputs(node: Any) -> dict[str, Any]:
    kinds = node.INPUT_TYPES()
    return {**kinds.get("required", {}), **kinds.get("optional", {})}


def test_comfyui_finds_every_node_with_its_title_and_a_tooltip_on_every_input_and_output(nodes):
    assert nodes.keys() == sys.modules[comfy_bed.PACK].NODE_DISPLAY_NAME_MAPPINGS.keys()
    for name, node in nodes.items():
        assert node.CATEGORY.startswith("training/RLR") and node.DESCRIPTION and hasattr(node, node.FUNCTION)
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS), name
        for given, kind in inputs(node).items():
            assert kind[1].get("tooltip", "").strip(" ."), f"{name}: {given}"


def test_defaults_are_among_the_choices_and_within_the_limits(nodes):
    for name, node in nodes.items():
        for given, (kind, options) in inputs(node).items():
            if isinstance(kind, list) and "default" in options:
                assert options["default"] in kind, f"{name}: {given}"
            if given == "learning_rate":
                assert options["step"] <= 1e-5, "browsers round to it"
            if kind in ("INT", "FLOAT"):
                assert options["min"] <= options["default"] <= options["max"], f"{name}: {given}"


def test_every_setting_of_the_estimator_is_an_input_and_comes_back_as_it_was():
    method = comfy_bed.node_file("method")
    kinds = method.Advanced.INPUT_TYPES()["required"]
    given = {name: kind[1]["default"] for name, kind in kinds.items()}
    from rlr_core.config import RunConfig, from_dict

    assert from_dict(method.Advanced().chosen(**given)[0]) == RunConfig()
    chosen = method.Advanced().chosen(**{**given, "stages": "coarse, mid"})[0]
    assert chosen["estimator"]["stages"] == ["coarse", "mid"]
    assert method.Preset().chosen("black-box")[0]["estimator"]["name"] == "learned_critic"


def test_a_file_of_ones_own_is_taken_from_its_folder_alone(tmp_path, monkeypatch):
    files = comfy_bed.node_file("rewards")
    monkeypatch.setattr(files, "own_rewards", lambda: tmp_path)
    (tmp_path / "mine.py").write_text("def score(images, prompts):\n    return images.mean((1, 2, 3))\n")
    node = files.OwnReward
    assert node.INPUT_TYPES()["required"]["file"][0] == ["mine.py"]
    chosen = node().chosen("mine.py", "")[0]
    assert chosen["reward"]["name"] == str(tmp_path / "mine.py") and not chosen["reward"]["download"]
    (tmp_path.parent / "evil.py").write_text("raise SystemExit\n")
    with pytest.raises(RewardError, match=r"evil\.py"):
        node().chosen("../evil.py", "")
    scorer = comfy_bed.node_file("score_node").Score()
    mean, lines = scorer.scored(torch.full((2, 8, 8, 4), 0.25), chosen, "a cat")["result"]
    assert mean == pytest.approx(0.25) and lines.startswith("1: ") and len(lines.splitlines()) == 2
    with pytest.raises(PromptError, match="3 prompts for 2 pictures"):
        scorer.scored(torch.zeros(2, 8, 8, 3), chosen, "a\nb\nc")


def test_sums_of_sums_are_sums():
    combine = comfy_bed.node_file("rewards").Combine()
    one = combine.combined(
        mix_scale="running",
        reward_1=reward("sharpness"),
        weight_1=2.0,
        reward_2=reward("pickscore"),
        weight_2=1.0,
    )[0]
    both = combine.combined(
        mix_scale="start", reward_1=one, weight_1=3.0, reward_2=reward("pickscore"), weight_2=-1.0
    )[0]
    assert both["reward"]["mix"] == {"sharpness": 6.0, "pickscore": 2.0}
    assert both["reward"]["mix_scale"] == "start"


def test_stages_hold_in_their_ranges_of_the_chain():
    files = comfy_bed.node_file("prompts")
    texts = {"coarse": "a shape", "mid": "a cat", "fine": "fur", "reward_prompt": "", "negative": "grey"}
    staged = files.Stages().staged(mid_from=0.5, fine_from=0.8, blend=0.0, **texts)[0]
    seen: list[str] = []
    clip = SimpleNamespace(
        tokenize=lambda text: text,
        encode_from_tokens_scheduled=lambda text: seen.append(text) or [[torch.zeros(1), {}]],
    )
    positive, negative = files.Conditioning().encoded(clip, staged, 1, 10, "normal")
    assert seen == ["a shape", "a cat", "fur", "grey", "grey", "grey"]
    edges = [(part[1]["start_percent"], part[1]["end_percent"]) for part in positive]
    assert edges[0][0] == 0 and edges[2][1] == 1 and edges[0][1] == edges[1][0] < edges[1][1] == edges[2][0]
    assert edges[0][1] == pytest.approx(0.5, abs=0.06) and len(negative) == 3
    with pytest.raises(PromptError, match="prompt 2"):
        files.Conditioning().encoded(clip, staged, 2, 10, "normal")


@pytest.fixture(scope="module")
def folder(objects, tmp_path_factory) -> str:
    """Of a finished run."""
    with pytest.MonkeyPatch.context() as changes:
        changes.setattr(
            comfy_bed.node_file("folders"), "output_folder", lambda: str(tmp_path_factory.getbasetemp())
        )
        return run(objects)[4]


def test_values_beside_a_curve_are_short_and_large_ones_whole():
    told = comfy_bed.node_file("curve_picture").told
    assert [told(value) for value in (10343.97, 0.123456, 1.5e9)] == ["10344", "0.1235", "1.5e+09"]


def test_of_a_mix_each_part_has_a_curve_and_each_curve_a_scale_of_its_own():
    """Of scores 1,000,000 and 0.01 in size, both curves fill their frames."""
    kept = comfy_bed.node_file("snapshot")
    events = [
        {
            "type": "evaluation",
            "iteration": x,
            "scores": [1e6 + 1e5 * x] * 2,
            "parts": {"a/own.py": [0.01 * x] * 2},
        }
        for x in range(3)
    ]
    iterations = Iterations()
    for x in range(1, 3):
        iterations.add({"seq": x, "iteration": x, "reward": 0.1 * x, "reward_error": 0.01})
    curves = kept.curves(Summary(None, None, events, iterations, Iterations()))
    assert list(curves) == ["mix trained on (std. dev.)", "held-out score", "part: own.py"]
    assert [y for _, y, _ in curves["part: own.py"]] == [0.0, 0.01, 0.02]
    drawn = comfy_bed.node_file("curve_picture")
    sheet = np.asarray(drawn.curve_picture(curves, 800, 400)).astype(int)
    frames = [sheet[row : row + 200, column : column + 400] for row, column in ((0, 0), (0, 400), (200, 0))]
    for frame, colour in zip(frames, drawn.COLOURS, strict=True):
        plot = np.abs(frame[drawn.TOP : -drawn.BOTTOM] - ImageColor.getrgb(colour)).sum(2) < 60
        rows = np.flatnonzero(plot[:, drawn.LEFT : -drawn.RIGHT].any(1))
        assert np.ptp(rows) > 0.5 * len(plot), colour


def test_what_is_made_of_a_run(folder, tmp_path, monkeypatch):
    made = comfy_bed.node_file("run_nodes")
    monkeypatch.setattr(made, "loras", lambda: tmp_path / "loras")
    picture = made.Curve().drawn(folder, 320, 240)[0]
    assert picture.shape == (1, 240, 320, 3) and (picture - picture[0, 0, 0]).abs().max() > 0.5
    for shown in made.BeforeAfter().shown(folder):
        assert shown.shape[0] == 1 and shown.std() > 0
    name = made.SaveLora().saved(folder, "rlr/mine", "last")["result"][0]
    source = Path(folder) / "rlr-lora.safetensors"
    assert (tmp_path / "loras" / name).read_bytes() == source.read_bytes()
    assert made.SaveLora().saved(folder, "rlr/mine", "last")["result"][0] != name
    with pytest.raises(RunError, match="held_out_pairs"):
        made.BeforeAfter().shown(str(tmp_path))
    with pytest.raises(RunError, match="no LoRA"):
        made.SaveLora().saved(str(tmp_path), "rlr/mine", "last")


def test_a_run_whose_folder_is_gone_is_told_by_each_node_that_takes_one(tmp_path):
    """ComfyUI keeps what a node gave, and with that the name of a folder that was renamed meanwhile."""
    made, gone = comfy_bed.node_file("run_nodes"), str(tmp_path / "run-007")
    for take in (
        lambda: made.Curve().drawn(gone, 320, 240),
        lambda: made.BeforeAfter().shown(gone),
        lambda: made.SaveLora().saved(gone, "rlr/mine", "last"),
    ):
        with pytest.raises(RunError, match=r"no run 'run-007'(.|\n)*renamed"):
            take()


def test_the_shown_state_is_that_of_the_folder(folder, monkeypatch):
    routes = comfy_bed.node_file("routes")
    monkeypatch.setattr(routes, "runs", lambda: Path(folder).parent)
    shown = routes.shown("run-001")
    for other in ("run-002", "..", "../rlr/run-001"):
        with pytest.raises(RunError, match="no run"):
            routes.shown(other)
    assert shown["state"] == "finished" and shown["iteration"] == shown["iterations"] == 2
    assert [x for x, _, _ in shown["curves"]["reward trained on"]] == [1, 2]
    assert len(shown["curves"]["held-out score"]) >= 2 and len(shown["curves"]) == 2
    assert shown["preview"] == "previews/000002.png" and shown["lora"] == "rlr-lora.safetensors"
    assert "→" in shown["result"]


def test_where_a_package_is_missing_every_node_says_which():
    made = comfy_bed.node_file("missing").explained(ModuleNotFoundError("No module", name="filelock"))
    assert made.keys() == comfy_bed.node_file("names").TITLES.keys()
    node = made["RLRTrain"]
    assert "'filelock'" in node.DESCRIPTION and node.INPUT_TYPES() == {"required": {}}
    with pytest.raises(RuntimeError, match="pip install"):
        node().say()


def test_prompts_are_added_to_others():
    both = prompts("a dog", more=prompts("a cat"))["prompts"]
    assert both["train"] == ["a cat", "a dog"] and both["syntax"] == "literal"


def test_what_is_installed_into_comfyui_is_what_it_lacks():
    import re

    from test_packaging import PROJECT, named

    lines = (comfy_bed.ROOT / "requirements.txt").read_text("utf-8").splitlines()
    asked = [line for line in lines if line and not line.startswith("#")]
    has = {"numpy", "pillow", "safetensors", "torch", "tqdm"}  # by its own requirements.txt
    assert named(asked) == named(PROJECT["dependencies"]) - has
    assert all(re.fullmatch(r"[a-z]+>=[^=]*(; .*)?", line) for line in asked), "nothing is pinned"


def test_help_pages_and_example_workflows_are_as_the_nodes_are_now():
    import example_graphs
    import node_help

    for name, page in node_help.pages().items():
        file = node_help.FOLDER / f"{name}.md"
        assert file.read_text("utf-8") == page, "python tests/node_help.py writes it anew"
    for name, workflow in example_graphs.files().items():
        file = example_graphs.FOLDER / name
        assert file.read_text("utf-8") == workflow, "python tests/example_graphs.py writes it anew"
    for graph in example_graphs.graphs().values():
        for kind, given in graph.values():
            known, _ = example_graphs.described(kind)
            assert given.keys() <= known.keys(), kind
            for name, source in given.items():
                if isinstance(source, tuple):
                    outputs = example_graphs.described(graph[source[0]][0])[1]
                    assert outputs[source[1]][1] == known[name][0], f"{kind}: {name}"
