"""Compare: what may be compared and painted, what the scores say, and the one file that is written outside."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rlr_core.errors import ConfigError, PromptError, RLRError
from ui.answering import answer, best, interval
from ui.painting import Asked, job_of, prefer, spread
from ui.picking import checkpoint_for, choices, side
from ui.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace.open(tmp_path)
    run = made.runs / "demo-001"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.toml").write_text(
        '[model]\ncheckpoint = "embedded"\n[output]\nname = "fox"\n', encoding="utf-8"
    )
    (run / "events.jsonl").write_text("", encoding="utf-8")
    (made.loras[0] / "mine").mkdir(parents=True)
    for file, base in (
        (run / "fox.safetensors", "embedded"),
        (made.loras[0] / "mine" / "bär.safetensors", "sdxl.safetensors"),
    ):
        save_file({"a": torch.zeros(1)}, file, {"ss_sd_model_name": base})
    for number in (0, 10, 20):
        (run / "checkpoints" / f"{number:06d}.pt").touch()
    return made


def lora(workspace: Workspace) -> str:
    return str(workspace.loras[0] / "mine" / "bär.safetensors")


def values(workspace: Workspace, **others: Any) -> dict[str, Any]:
    key = str(workspace.runs / "demo-001" / "fox.safetensors")
    return {"first": "base", "second": key, "prompts": ["a", " ", "b"], "rewards": ["sharpness"], **others}


def test_choices_are_runs_with_checkpoints_and_files(workspace: Workspace):
    found = [(choice["group"].rpartition("/")[2], choice["label"]) for choice in choices(workspace)]
    assert found[1:] == [
        ("demo-001", "fox"),
        ("demo-001", "checkpoint of iteration 20"),
        ("demo-001", "checkpoint of iteration 10"),
        ("mine", "bär"),
    ]
    assert [choice["label"] for choice in choices(workspace, "DEMO 20")] == ["checkpoint of iteration 20"]
    assert [choice["label"] for choice in choices(workspace, "bär", base=False)] == ["bär"]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "run/../10",
        "run/demo-001/..",
        "run/absent/10",
        "../x.safetensors",
        "/x\0.safetensors",
    ],
)
def test_what_is_no_choice_is_refused(workspace: Workspace, key: str):
    with pytest.raises(RLRError):
        side(workspace, key)


def test_a_lora_outside_the_folders_is_refused_even_by_a_link(workspace: Workspace, tmp_path_factory: Any):
    outside = tmp_path_factory.mktemp("outside") / "secret.safetensors"
    save_file({"a": torch.zeros(1)}, outside)
    link = workspace.loras[0] / "link.safetensors"
    link.symlink_to(outside)
    for key in (str(outside), str(link), str(workspace.loras[0] / ".." / ".." / ".." / outside.name)):
        with pytest.raises(ConfigError):
            side(workspace, key)
        with pytest.raises(ConfigError):
            prefer(workspace, key, 0.5)
    assert not outside.with_suffix(".json").exists()


def test_rows_are_at_the_same_prompts_and_seeds(workspace: Workspace, tmp_path: Path):
    job = job_of(workspace, Asked.of(values(workspace, pictures=2, seed=5, strengths=[1, 0.5])), tmp_path)
    assert job["prompts"] == ["a", "a", "b", "b"] and job["seeds"] == [5, 6, 5, 6]
    assert [(row["label"], row["strength"], bool(row["lora"])) for row in job["rows"]] == [
        ("base", 1.0, False),
        ("demo-001: fox at 0.5", 0.5, True),
    ]
    assert job["checkpoint"] == "embedded" and job["run"].endswith("demo-001")


def test_a_sweep_is_of_one_file_in_rising_strengths(workspace: Workspace, tmp_path: Path):
    job = job_of(workspace, Asked.of(values(workspace, sweep=True, strengths=[1, 0, 0.5, 1])), tmp_path)
    assert [row["strength"] for row in job["rows"]] == [0, 0.5, 1]
    assert {row["lora"] for row in job["rows"]} == {job["lora"]} and Path(
        job["lora"]
    ).name == "fox.safetensors"


def test_a_checkpoint_is_exported_into_the_job(workspace: Workspace, tmp_path: Path):
    job = job_of(
        workspace, Asked.of(values(workspace, first="run/demo-001/10", second="run/demo-001/20")), tmp_path
    )
    assert [(each["iteration"], Path(each["file"]).parent) for each in job["exports"]] == [
        (10, tmp_path),
        (20, tmp_path),
    ]
    assert [row["lora"] for row in job["rows"]] == [each["file"] for each in job["exports"]]
    assert best({**job, "sweep": True}, {"x": [[1.0], [2.0]]}) is None  # no file whose card could be written


def test_the_checkpoint_is_that_of_the_file_or_has_to_be_chosen(workspace: Workspace):
    sides = [side(workspace, lora(workspace))]
    with pytest.raises(ConfigError, match="no checkpoint"):
        checkpoint_for(workspace, sides, "")
    there = workspace.home / "models" / "checkpoints" / "deep" / "sdxl.safetensors"
    there.parent.mkdir(parents=True)
    there.touch()
    assert checkpoint_for(workspace, sides, "") == str(there)
    with pytest.raises(ConfigError):
        checkpoint_for(workspace, sides, "/etc/passwd")


@pytest.mark.parametrize(
    "others",
    [
        {"second": ""},
        {"second": 5},
        {"prompts": "a"},
        {"prompts": [None]},
        {"pictures": 0},
        {"pictures": True},
        {"pictures": 1.5},
        {"seed": -1},
        {"seed": "0"},
        {"strengths": [1]},
        {"strengths": [1, None]},
        {"strengths": [1, float("nan")]},
        {"strengths": [], "sweep": True},
        {"strengths": [0.1] * 17, "sweep": True},
        {"sweep": 1},
        {"prompts": ["a"] * 33, "pictures": 2},
    ],
)
def test_what_cannot_be_painted_is_refused(workspace: Workspace, others: dict):
    with pytest.raises(ConfigError):
        Asked.of(values(workspace, **others))


def test_no_prompts_and_strange_rewards_are_refused(workspace: Workspace, tmp_path: Path):
    with pytest.raises(PromptError):
        Asked.of(values(workspace, prompts=[" "]))
    for name in ("nothing", "/tmp/x.py:f"):
        with pytest.raises(ConfigError, match="reward"):
            job_of(workspace, Asked.of(values(workspace, rewards=[name])), tmp_path)


SWEEP = {
    "sweep": True,
    "lora": "/x/fox.safetensors",
    "rows": [{"label": f"{s:g}", "strength": s} for s in (0.0, 0.5, 1.0)],
}
PAIR = {"sweep": False, "rows": [{"label": "base"}, {"label": "fox"}]}


def test_an_answer_claims_no_more_than_was_measured():
    noisy = [[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.1]]
    assert "no clear difference" in answer(PAIR, "r", noisy)
    assert "fox scores higher than base by 0.500" in answer(PAIR, "r", [[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]])
    assert "base scores higher than fox" in answer(PAIR, "r", [[0.6, 0.7, 0.8], [0.1, 0.2, 0.3]])
    assert "one pair tells nothing" in answer(PAIR, "r", [[0.1], [0.9]])
    assert "no scores" in answer(PAIR, "r", [[None], [0.9]])


def test_the_best_strength_is_clear_or_not():
    table = [[0.1, 0.2, 0.3], [0.5, 0.62, 0.71], [0.51, 0.59, 0.70]]
    assert "strength 0.5 scores highest" in answer(
        SWEEP, "r", table
    ) and "not clearly higher than 1." in answer(SWEEP, "r", table)
    assert "clearly higher than every other" in answer(SWEEP, "r", [*table[:2], [0.2, 0.3, 0.4]])
    assert best(SWEEP, {"r": table}) == {"strength": 0.5, "clear": True, "file": "fox.safetensors"}
    noisy = [[0.0, 1.0], [1.0, 0.1], [0.2, 0.9]]
    assert "no strength is clearly different" in answer(SWEEP, "r", noisy)
    assert (best(SWEEP, {"r": noisy}) or {})["clear"] is False
    assert best(SWEEP, {}) is None and best(SWEEP, {"r": [[None]] * 3}) is None


def test_an_interval_is_of_what_is_known():
    mean, half = interval([1.0, 2.0, None, 3.0]) or (0, 0)
    assert mean == 2 and half == pytest.approx(1.96 / math.sqrt(3))
    assert interval([None]) is None and math.isnan((interval([1.0]) or (0, 0))[1])


def test_the_card_keeps_what_else_it_says(workspace: Workspace):
    card = Path(lora(workspace)).with_suffix(".json")
    assert json.loads(prefer(workspace, lora(workspace), 0.75).read_text()) == {"preferred weight": 0.75}
    card.write_text('{"activation text": "bär", "preferred weight": 1}', encoding="utf-8")
    prefer(workspace, lora(workspace), 1.25)
    assert json.loads(card.read_text(encoding="utf-8")) == {
        "activation text": "bär",
        "preferred weight": 1.25,
    }
    card.write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read"):
        prefer(workspace, lora(workspace), 1)
    assert card.read_text() == "[]"


def test_proposed_prompts_lie_evenly_apart():
    assert spread(["a", "b"], 6) == ["a", "b"]
    assert spread([str(n) for n in range(12)], 6) == ["0", "2", "4", "6", "8", "10"]
