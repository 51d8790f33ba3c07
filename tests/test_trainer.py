"""The trainer: prompts dealt, parts weighed, steps taken or skipped."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

import runs

from rlr_core.config import PromptConfig
from rlr_core.dcot import plain
from rlr_core.embedded import world
from rlr_core.errors import ConfigError, EstimatorError, PromptError, RewardError, RunError
from rlr_core.estimators import Part
from rlr_core.rewards import FunctionReward
from rlr_core.trainer import Evaluation, Iteration, NewBest, Painting, Preview, Skipped, Trainer, prepare
from rlr_core.trainer.prompts import deal, held_out_prompts, read_prompts, training_prompts
from rlr_core.trainer.weighing import Weighing


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


def trainer(workshop: Path, **overrides) -> Trainer:
    return Trainer(prepare(runs.config(workshop, **{"output__evaluation": 0, **overrides})))


# prompts


def test_every_pass_through_the_prompts_deals_each_once():
    prompts = plain([f"prompt {k}" for k in range(10)])
    dealt = [prompt for turn in range(5) for prompt in deal(prompts, 4, turn, seed=3)]
    assert set(dealt[:10]) == set(dealt[10:]) == set(prompts)
    assert dealt[:10] != dealt[10:] != prompts
    assert dealt[:4] == deal(prompts, 4, 0, seed=3) != deal(prompts, 4, 0, seed=4)


def test_prompts_come_from_lines(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa red circle\r\n\n  ein grünes Quadrat  \n".encode())
    assert read_prompts(str(file)) == ["a red circle", "ein grünes Quadrat"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\n \n", "is empty"), ("grün".encode("latin-1"), "is not UTF-8 \\(byte 2: ")],
)
def test_a_prompts_file_without_prompts(content, message, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(PromptError, match=message) as caught:
        read_prompts(str(file))
    assert str(file) in str(caught.value)


def test_a_prompts_file_that_is_not_there(tmp_path):
    with pytest.raises(PromptError, match="cannot be read"):
        read_prompts(str(tmp_path / "nowhere.txt"))


def test_the_embedded_worlds_prompts_are_for_the_embedded_checkpoint_alone():
    assert training_prompts(PromptConfig(), embedded=True) == plain(world.TRAIN_PROMPTS)
    assert held_out_prompts(PromptConfig()) == plain(world.HELD_OUT_PROMPTS)
    with pytest.raises(PromptError, match=r"prompts\.train or prompts\.file"):
        training_prompts(PromptConfig(), embedded=False)
    with pytest.raises(PromptError, match="an empty prompt"):
        training_prompts(PromptConfig(train=["a", " "]), embedded=False)


def test_without_held_out_prompts_the_training_prompts_are_used():
    assert held_out_prompts(PromptConfig(train=["a"])) == plain(["a"])
    assert held_out_prompts(PromptConfig(train=["a"], held_out=["b"])) == plain(["b"])


# weights of the parts


def part(norm: float, error: float) -> Part:
    return Part(torch.tensor([norm]), error)


def test_noise_is_weighed_down():
    weights = Weighing(by_signal=True)({"clear": part(2.0, 0.0), "noisy": part(2.0, math.sqrt(3.0))})
    assert weights == {"clear": 1.0, "noisy": pytest.approx(0.25)}


def test_the_largest_weight_is_1():
    weighing = Weighing(by_signal=True)
    assert weighing({"only": part(2.0, 1.0)}) == {"only": 1.0}
    assert weighing({"a": part(1.0, 2.0), "b": part(1.0, 3.0)}) == {"a": 1.0, "b": 1.0}, "all is noise"


def test_weights_are_1_where_asked_for_or_where_nothing_is_known():
    parts = {"a": part(1.0, 0.9), "b": part(1.0, 0.0)}
    assert Weighing(by_signal=False)(parts) == {"a": 1.0, "b": 1.0}
    assert Weighing(by_signal=True)({"a": part(1.0, math.nan), "b": part(1.0, 0.0)}) == {"a": 1.0, "b": 1.0}


def test_weights_follow_running_means():
    weighing = Weighing(by_signal=True)
    weighing({"a": part(1.0, 0.0), "b": part(1.0, 0.5)})
    again = Weighing(by_signal=True)
    again.load_state_dict(weighing.state_dict())
    now = {"a": part(1.0, 0.0), "b": part(3.0, 1.0)}
    noise, total = 0.9 * 0.25 + 0.1 * 1.0, 0.9 * 1.0 + 0.1 * 9.0
    assert weighing(now) == again(now) == {"a": 1.0, "b": pytest.approx(1 - noise / total)}


# iterations


def test_events_come_in_order_and_as_often_as_asked(workshop):
    told = list(trainer(workshop, output__evaluation=3, training__iterations=3).run())
    quiet = (NewBest, Painting)
    names = [f"{type(event).__name__} {event.iteration}" for event in told if not isinstance(event, quiet)]
    assert names == [
        "Preview 0", "Evaluation 0", "CheckpointDue 0", "Iteration 1", "Iteration 2", "Preview 2", "Evaluation 2",
        "CheckpointDue 2", "Iteration 3", "Preview 3", "Evaluation 3", "CheckpointDue 3", "Evaluation 3",
    ]  # fmt: skip
    before, *during, after = (event for event in told if isinstance(event, Evaluation))
    assert (before.when, {event.when for event in during}, after.when) == ("before", {"during"}, "after")
    assert before.prompts == after.prompts and before.seeds == after.seeds
    assert before.images.shape == (3, 3, 16, 16) and not torch.equal(before.images, after.images)
    step = next(event for event in told if isinstance(event, Iteration))
    assert set(step.parts) == {"first order", "half order"} and step.gradient_norm > 0
    assert step.evaluations >= 2 * 4, "guidance takes two evaluations a step"


def test_painting_is_told_group_by_group(workshop):
    made = trainer(
        workshop, output__evaluation=5, alarm__pictures=3, training__iterations=1, memory__painted=2
    )
    told = list(made.run())
    painted = [(event.purpose, event.done, event.total) for event in told if isinstance(event, Painting)]
    assert painted == [
        ("preview", 0, 2), ("preview", 2, 2),
        ("before", 0, 5), ("before", 2, 5), ("before", 4, 5), ("before", 5, 5),
        ("preview", 0, 2), ("preview", 2, 2),
        ("during", 0, 3), ("during", 2, 3), ("during", 3, 3),
        ("after", 0, 5), ("after", 2, 5), ("after", 4, 5), ("after", 5, 5),
    ]  # fmt: skip
    for event, following in itertools.pairwise(told):
        if isinstance(event, Painting) and event.done == event.total:
            assert isinstance(following, Preview if event.purpose == "preview" else Evaluation)
            assert following.iteration == event.iteration


def test_pictures_are_those_of_the_painter(workshop):
    """Group by group, with the averaged LoRA: bit for bit what the painter gives at once."""
    made = trainer(workshop, output__evaluation=5, training__iterations=2, training__ema=0.5)
    *_, after = (event for event in made.run() if isinstance(event, Evaluation))
    with made.averaged():
        assert torch.equal(made.setup.painter(plain(after.prompts), after.seeds), after.images)
    assert not torch.equal(made.setup.painter(plain(after.prompts), after.seeds), after.images)


def test_the_lora_is_trainings_own_whenever_something_is_told(workshop):
    """And the best one comes with its event, so that nobody has to look for it in the model."""
    settings = {"output__evaluation": 3, "training__ema": 0.5, "training__iterations": 4}
    made = trainer(workshop, **settings)
    own = made.setup.lora.state_dict()
    best = []
    for event in made.run():
        if isinstance(event, Iteration):
            assert not all(torch.equal(own[name], p) for name, p in made.setup.lora.state_dict().items())
            own = made.setup.lora.state_dict()
        runs.assert_same(made.setup.lora.state_dict(), own)
        if isinstance(event, NewBest):
            with made.averaged():
                shown = made.setup.lora.weights()
            assert list(event.weights) == list(shown)
            runs.assert_same([*map(vars, event.weights.values())], [*map(vars, shown.values())])
            best.append(event)
    assert best, "a run without a best checks nothing"


def test_previews_are_of_the_same_prompts_and_seeds(workshop):
    previews = [e for e in trainer(workshop).run() if isinstance(e, Preview)]
    assert len({(tuple(p.prompts), tuple(p.seeds)) for p in previews}) == 1
    assert set(previews[0].prompts) <= {"g h", "i j"}


@pytest.mark.parametrize("name", ["rlr", "half", "full_bp", "draft"])
def test_training_raises_the_reward(name, workshop):
    """The mean over the same 16 (prompt, seed) pairs, before and after."""
    settings = {"training__iterations": 12, "training__learning_rate": 0.03, "output__evaluation": 16}
    told = trainer(workshop, estimator__name=name, output__preview_every=0, **settings).run()
    before, *_, after = (event.rewards.mean() for event in told if isinstance(event, Evaluation))
    assert after > before + 0.01


def with_reward(workshop: Path, function, **overrides) -> Trainer:
    made = trainer(workshop, estimator__name="half", estimator__chunk=2, **overrides)
    reward = FunctionReward("spoiled", False, function)
    object.__setattr__(made.setup.rewards, "trained", reward)
    object.__setattr__(made.setup.problem, "reward", reward)
    return made


def finite(made: Trainer) -> bool:
    return all(bool(p.isfinite().all()) for p in made.setup.lora.parameters)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_skips_the_step(bad, workshop):
    calls = [0]

    def sometimes(images, prompts):
        calls[0] += 1
        return images.mean((1, 2, 3)) * (bad if calls[0] == 1 else 1.0)

    made = with_reward(workshop, sometimes, training__max_kl=0.0)
    start = [p.detach().clone() for p in made.setup.lora.parameters]
    told = []
    for event in made.run():
        told.append(event)
        if isinstance(event, Skipped):
            assert all(torch.equal(p, q) for p, q in zip(made.setup.lora.parameters, start, strict=True))
    (skipped,) = (event for event in told if isinstance(event, Skipped))
    assert (
        {event.evaluations for event in told if isinstance(event, (Skipped, Iteration))}
        == {skipped.evaluations}
        != {0}
    )
    assert skipped.iteration == 1 and "2 of 4 rewards are NaN or infinite" in skipped.reason
    assert sum(isinstance(event, Iteration) for event in told) == 5
    assert finite(made)


def test_a_run_that_only_skips_stops_with_a_message(workshop):
    made = with_reward(workshop, lambda images, prompts: [math.nan] * len(prompts), training__max_skipped=3)
    told = []
    with pytest.raises(
        RunError, match=r"3 iterations in a row were skipped.*NaN(.|\n)*check the reward"
    ) as caught:
        told.extend(made.run())
    assert "learning_rate" in str(caught.value) and made.iteration == 3 and finite(made)


def test_a_gradient_that_is_not_finite_skips_the_step(workshop):
    made = trainer(workshop, training__iterations=2)
    spoiled = [True]

    def estimate(problem, batch):
        result = estimator(problem, batch)
        if spoiled.pop() if spoiled else False:
            result.parts["first order"].gradient[3] = math.inf
        return result

    estimator = made.setup.estimator
    made.estimate = lambda batch: estimate(made.setup.problem, batch)
    told = [event for event in made.run() if isinstance(event, (Skipped, Iteration))]
    assert [type(event).__name__ for event in told] == ["Skipped", "Iteration"]
    assert "gradient is NaN or infinite (first order)" in told[0].reason and finite(made)


def test_a_step_that_would_overflow_is_taken_back(workshop):
    made = trainer(workshop, training__iterations=2)
    before = [p.detach().clone() for p in made.setup.lora.parameters]
    step = made.optimizer.step

    def overflow() -> None:
        step()
        made.setup.lora.parameters[0].data[0] = math.inf
        made.optimizer.step = step

    made.optimizer.step = overflow
    (skipped, taken) = (event for event in made.run() if isinstance(event, (Skipped, Iteration)))
    assert isinstance(skipped, Skipped) and "would have made a weight" in skipped.reason
    assert isinstance(taken, Iteration) and finite(made)
    moved = [
        float((p - q).detach().abs().max()) for p, q in zip(made.setup.lora.parameters, before, strict=True)
    ]
    assert 0 < max(moved) <= 1.001 * made.setup.config.training.learning_rate, "Adam's first step, once"


def test_the_learning_rate_falls_along_a_cosine(workshop):
    made, rates = trainer(workshop, training__schedule="cosine", training__iterations=4), []
    for event in made.run():
        if isinstance(event, Iteration):
            rates.append(made.optimizer.param_groups[0]["lr"] / made.setup.config.training.learning_rate)
    assert rates == pytest.approx([1, (1 + 2**-0.5) / 2, 0.5, (1 - 2**-0.5) / 2])


# what is refused before training


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        ({"training__prompts_per_batch": 3}, ConfigError, "divides the batch size"),
        ({"estimator__chunk": 3}, EstimatorError, "divides the batch size"),
        ({"sampling__eta": 0.0}, EstimatorError, "η = 0 with a half-order part"),
        ({"estimator__sub_chain_length": 9}, EstimatorError, "sub-chains of 9 steps where 3 steps"),
        ({"estimator__first_order_steps": 4}, EstimatorError, "full_bp"),
        (
            {"estimator__first_order_steps": 9},
            EstimatorError,
            "a first-order part of 9 steps in a chain of 4",
        ),
        ({"estimator__name": "rrl"}, ConfigError, "did you mean 'rlr'"),
        ({"prompts__train": []}, PromptError, "no training prompts"),
        ({"model__device": "mps"}, ConfigError, "which this machine does not have"),
    ],
)
def test_settings_that_cannot_work(overrides, kind, message, workshop):
    with pytest.raises(kind, match=message):
        trainer(workshop, **overrides)


def test_a_first_order_part_needs_a_gradient(workshop):
    name = f"{workshop / 'reward.py'}:bright"
    with pytest.raises(EstimatorError, match=r"bright', which has no gradient(.|\n)*estimator.name = half"):
        trainer(workshop, reward__name=name)
    assert trainer(workshop, reward__name=name, estimator__name="reinforce")


def test_a_reward_that_returns_one_number_for_all(workshop):
    with pytest.raises(RewardError, match="returned a Tensor of shape \\(\\)"):
        trainer(workshop, reward__name=f"{workshop / 'reward.py'}:shape", estimator__name="half")


def test_ignored_settings_are_told(workshop):
    with pytest.warns(UserWarning, match=r"estimator\.sigma is ignored by the estimator 'rlr'"):
        trainer(workshop, estimator__sigma=0.5)


def test_a_batch_that_shares_one_perturbation_is_told(workshop):
    settings = {"estimator__name": "v3", "estimator__chunk": 4, "estimator__first_order_steps": 4}
    with pytest.warns(UserWarning, match="shares one perturbation"):
        trainer(workshop, **settings)
