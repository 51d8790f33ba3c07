"""Where pictures come out worse than at the start, training goes back, and on by shorter steps: it learns, or stands still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

import runs

from rlr_core.runs import log, runner
from rlr_core.runs.directory import RunDirectory
from rlr_core.trainer import Evaluation, Iteration, NewBest, Trainer, Warned, prepare
from rlr_core.trainer.alarm import HELD_OUT, TRAINED, Alarm

WORSE = """
from reward import red

def misleading(images, prompts):
    redness = red(images, prompts)
    return redness - 2 * redness.detach()

misleading.differentiable = True

def less_red(images, prompts):
    return -red(images, prompts)
"""
BACK = "Training goes back to"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    folder = runs.workshop(tmp_path_factory.mktemp("workshop"))
    (folder / "worse.py").write_text(WORSE, encoding="utf-8")
    return folder


def worse(workshop: Path, **overrides: Any):
    """Where the reward's gradient leads, the reward is lower, and so is what judges."""
    settings = {
        "estimator__name": "draft",
        "reward__name": f"{workshop / 'worse.py'}:misleading",
        "reward__held_out": f"{workshop / 'worse.py'}:less_red",
        "output__evaluation": 12,
        "alarm__pictures": 12,
        "training__learning_rate": 0.03,
        "training__iterations": 8,
        "output__preview_every": 1,
    }
    return runs.config(workshop, **{**settings, **overrides})


def test_training_goes_back_and_on_by_half_the_length(workshop):
    """And half as far, as often as it takes. Adam begins anew, with the LoRA that was better than at the start, or that one."""
    made = Trainer(prepare(worse(workshop)))
    start = [p.detach().clone() for p in made.setup.lora.parameters]
    rates, back, scores = {}, [], {}
    for event in made.train():
        match event:
            case Iteration():
                rates[event.iteration] = made.optimizer.param_groups[0]["lr"]
            case Evaluation():
                scores[event.iteration] = event.scores.mean()
            case Warned(message) if BACK in message:
                back.append(made.iteration)
                if made.watch.improved:
                    now, best = made.setup.lora.weights(), made.watch.best_lora
                    runs.assert_same([*map(vars, now.values())], [*map(vars, best.values())])
                elif made.iteration < 8:
                    runs.assert_same([p.detach() for p in made.setup.lora.parameters], start)
                else:
                    assert "half of what it did" in message
                assert not made.optimizer.state
                assert "the reward trained on is below that of the start" in message
                assert scores[made.iteration] < scores[0]
            case _:
                pass
    assert made.leash and made.leash.limit == 0.3 / 4 ** len(back)
    assert back and made.way_back.halvings == len(back) and made.iteration == 8, "to the end"
    for iteration, rate in rates.items():
        assert rate == 0.03 / 2 ** sum(at < iteration for at in back)


def test_it_ends_no_worse_than_it_began(workshop):
    """Power: a run that does not go back is far below."""
    ends = {}
    for backtrack in (True, False):
        told = list(Trainer(prepare(worse(workshop, training__backtrack=backtrack))).run())
        start, *_, end = (event.scores for event in told if isinstance(event, Evaluation))
        ends[backtrack] = float((end - start).mean())
        assert any(isinstance(e, Warned) and BACK in e.message for e in told) == backtrack
    assert ends[False] < 0 and ends[True] > ends[False] / 4


def test_a_run_that_gets_better_never_goes_back(workshop):
    made = Trainer(prepare(worse(workshop, reward__name=f"{workshop / 'reward.py'}:red")))
    told = list(made.train())
    assert made.way_back.halvings == 0 and not any(isinstance(e, Warned) and BACK in e.message for e in told)


@pytest.mark.parametrize(
    ("trained", "held_out", "words"),
    [
        (-1.0, 0.5, "the reward trained on is below that of the start: 0.000 → -1.000"),
        (0.05, -1.0, "held-out score is below that of the start: 0.000 → -1.000"),
        (1.0, -1.0, ""),
        (0.5, 0.5, ""),
        (-0.1, 0.5, ""),
    ],
)
def test_what_is_worse(trained, held_out, words):
    """One of those that judge; a fall within what pairs vary by is none."""
    noise = torch.randn(16, generator=torch.Generator().manual_seed(0))
    noise -= noise.mean()
    alarm = Alarm(9, 0.05)
    alarm.take({TRAINED: torch.zeros(16), HELD_OUT: torch.zeros(16)})
    alarm.take({TRAINED: trained + noise, HELD_OUT: held_out + noise})
    assert "; ".join(alarm.below_the_start()) == words


@pytest.fixture(scope="module")
def went_back(workshop, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("back") / "run"
    return runner.start(worse(workshop), folder, lambda event: None).folder


def test_it_is_said_in_the_log(went_back):
    said = [e["message"] for e in log.read(went_back / "events.jsonl") if e["type"] == "warning"]
    assert any(BACK in message and "training.backtrack = false" in message for message in said)
    assert RunDirectory(went_back).state().state == "finished"


@pytest.mark.parametrize("kind", [Warned, NewBest, Evaluation])
def test_it_survives_a_crash_anywhere(kind, workshop, went_back, tmp_path):
    """The process dies after the last event of each kind; what goes on from the checkpoint is the run that never died."""
    runs.assert_a_crash_changes_nothing(kind, worse(workshop), went_back, tmp_path / "run")


@pytest.mark.parametrize(
    ("gain", "checks", "rose"), [(1.0, 3, True), (-1.0, 3, False), (0.7, 3, True), (0.7, 200, False)]
)
def test_what_was_chosen_as_the_best_of_many_has_to_be_better_by_more(gain, checks, rose):
    noise = torch.randn(16, generator=torch.Generator().manual_seed(0))
    noise -= noise.mean()
    alarm = Alarm(9, 0.05)
    for score in (torch.zeros(16), gain + noise, *[torch.zeros(16)] * (checks - 2)):
        alarm.take({TRAINED: score, HELD_OUT: score})
    assert alarm.rose(1) == rose
