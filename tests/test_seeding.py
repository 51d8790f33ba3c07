"""Random numbers of the process: what draws from them in a run is repeatable, and a host finds them as it left them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import runs

from rlr_core.rewards import load_reward
from rlr_core.runs import log, runner
from rlr_core.trainer import Evaluation, Iteration, Painting, Trainer, prepare
from rlr_core.trainer.seeding import seeded

NOISY = """
import random
import numpy as np
import torch

torch.manual_seed(3)
random.seed(3)
np.random.seed(3)

def noisy(images, prompts):
    return images.mean((1, 2, 3)) + torch.rand(len(images)) + torch.tensor(np.random.rand(len(images))) + random.random()

noisy.differentiable = True
"""


def states() -> list[Any]:
    name, keys, *rest = np.random.get_state()
    return [torch.get_rng_state(), random.getstate(), name, torch.from_numpy(keys.astype(np.int64)), *rest]


def draw() -> list[float]:
    return [float(torch.rand(())), random.random(), float(np.random.rand())]


def host_seeds() -> None:
    torch.manual_seed(11)
    random.seed(12)
    np.random.seed(13)


@pytest.fixture(autouse=True)
def _a_host():
    host_seeds()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    folder = runs.workshop(tmp_path_factory.mktemp("workshop"))
    (folder / "noisy.py").write_text(NOISY, encoding="utf-8")
    return folder


def noisy(workshop: Path, **overrides: Any):
    name = f"{workshop / 'noisy.py'}:noisy"
    settings = {"reward__name": name, "reward__held_out": name, "reward__watch": [name]}
    return runs.config(workshop, **{**settings, "training__iterations": 4, **overrides})


# the context


def test_inside_all_follows_from_the_seed_and_outside_nothing_has_happened():
    before = states()
    with seeded(2**62 + 5):
        first = draw()
        with seeded(1):
            other = draw()
        following = draw()
    runs.assert_same(states(), before)
    draw()
    with seeded(2**62 + 5):
        assert (draw(), draw()) == (first, following)
    with seeded(1):
        assert draw() == other != first


def test_an_error_gives_the_generators_back():
    before = states()
    with pytest.raises(KeyboardInterrupt), seeded(1):
        draw()
        raise KeyboardInterrupt
    runs.assert_same(states(), before)


def test_numbers_are_those_of_torchs_own_seed():
    with seeded(5):
        drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)


class Device:
    """A device that has been used; stands for `torch.cuda` or `torch.mps`."""

    def __init__(self) -> None:
        self.state, self.seeds = "the host's", []

    def seed(self, seed: int) -> None:
        self.seeds.append(seed)
        self.state = f"seed {seed}"

    def put(self, state: str) -> None:
        self.state = state


@pytest.mark.parametrize("used", [True, False])
def test_a_card_is_seeded_if_it_is_in_use(used, monkeypatch):
    card = Device()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: card.state)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", card.put)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", card.seed)
    with seeded(4):
        assert card.state == ("seed 4" if used else "the host's")
    assert card.state == "the host's" and card.seeds == ([4] if used else [])


# a run


def test_an_iteration_leaves_the_generators_alone(workshop):
    before = states()
    made = Trainer(prepare(noisy(workshop)))
    runs.assert_same(states(), before, "prepare")
    assert isinstance(made.iterate(), Iteration)
    runs.assert_same(states(), before, "iterate")


@pytest.mark.parametrize("name", ["embedded", "embedded-held-out"])
def test_loading_a_reward_leaves_the_generators_alone(name):
    before = states()
    load_reward(name, "cpu")
    runs.assert_same(states(), before)


MIX = {"reward__name": "mix", "estimator__name": "reinforce"}


@pytest.mark.parametrize("mixed", [False, True])
def test_a_host_draws_between_events_as_if_it_were_alone(mixed, workshop):
    """Its numbers are those that it would have drawn without us, and ours are those that we draw without it."""
    parts = {f"{workshop / 'noisy.py'}:noisy": 0.5, "sharpness": 0.5}
    settings = {**MIX, "reward__mix": parts} if mixed else {}
    config = noisy(workshop, training__iterations=2, **settings)
    alone = list(Trainer(prepare(config)).run())
    numbers, told = [], []
    for event in Trainer(prepare(config)).run():
        numbers.append(draw())
        told.append(event)
    host_seeds()
    assert numbers == [draw() for _ in told]
    assert [type(event) for event in told] == [type(event) for event in alone]
    assert {event.purpose for event in told if isinstance(event, Painting)} >= (
        {"calibration", "before"} if mixed else {"before", "preview", "after"}
    )
    for one, other in zip(told, alone, strict=True):
        if isinstance(one, Evaluation) and isinstance(other, Evaluation):
            runs.assert_same(
                [one.rewards, one.scores, one.watched], [other.rewards, other.scores, other.watched]
            )


def test_a_random_reward_scores_the_same_after_a_resume(workshop, tmp_path):
    """In evaluations, checks, previews and iterations; the crash makes another process's generators of ours."""
    runner.start(noisy(workshop), tmp_path / "straight", lambda event: None)

    def crash(event) -> None:
        if isinstance(event, Iteration) and event.iteration == 3:
            raise MemoryError

    with pytest.raises(MemoryError):
        runner.start(noisy(workshop), tmp_path / "run", crash)
    draw()
    runner.resume(tmp_path / "run", lambda event: None)
    runs.assert_same_run(tmp_path / "run", tmp_path / "straight")
    evaluations = [e for e in log.read(tmp_path / "run" / "events.jsonl") if e["type"] == "evaluation"]
    before, _, last, after = (event["scores"] for event in evaluations)
    assert before != last == after, "the same pictures have the same scores, whenever they are painted"
    assert evaluations[0]["scores"] != evaluations[0]["rewards"], "each reward draws its own numbers"
