"""Mixes of rewards, black boxes and image statistics."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

import runs

from rlr_core.bench import learn
from rlr_core.config import RewardConfig, to_dict
from rlr_core.errors import EstimatorError, RewardError
from rlr_core.rewards import FunctionReward, Mix, load_mix, load_reward, statistics
from rlr_core.rewards.mix import Spread
from rlr_core.rewards.reward import alone
from rlr_core.runs import log, runner
from rlr_core.trainer import Evaluation, Iteration, Painting, Trainer, prepare
from rlr_core.trainer.measuring import evaluation, preview

PROMPTS = ["a", "b", "c"]


def pictures(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size)


# black boxes


def test_jpeg_is_what_ddpo_measures():
    """Kilobytes of 1000 bytes at quality 95."""
    images = pictures()
    sizes = load_reward("jpeg-incompressibility", "cpu")(images, PROMPTS)
    for image, size in zip(images, sizes.tolist(), strict=True):
        pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="JPEG", quality=95)
        assert size == pytest.approx(len(file.getvalue()) / 1000)
    assert load_reward("jpeg-compressibility", "cpu")(images, PROMPTS).tolist() == (-sizes).tolist()


def test_noise_is_sharp_and_hard_to_compress_and_a_plain_picture_is_neither():
    plain, noise = torch.full((1, 3, 32, 32), 0.5), pictures(1)
    for name in ("sharpness", "jpeg-incompressibility"):
        reward = load_reward(name, "cpu")
        assert not reward.differentiable and reward(plain, ["a"]) < reward(noise, ["a"])
    assert float(load_reward("sharpness", "cpu")(plain, ["a"])) == 0


def test_sharpness_of_a_picture_that_is_known():
    """One white pixel in a black 5 × 5 picture: the Laplacian is −1020 there, 255 at its four neighbours, else 0."""
    image = torch.zeros(1, 3, 5, 5)
    image[:, :, 2, 2] = 1
    values = np.array([-1020] + 4 * [255] + 4 * [0])
    assert float(load_reward("sharpness", "cpu")(image, ["a"])) == pytest.approx(values.var())


@pytest.mark.parametrize("name", ["sharpness", "jpeg-compressibility", "jpeg-incompressibility"])
@pytest.mark.parametrize("shape", [(3, 16, 48), (3, 48, 16), (3, 3, 3)])
def test_black_boxes_take_any_shape_and_survive_nan(name, shape):
    images = torch.rand(2, *shape)
    images[0, 0, 0, 0] = torch.nan
    assert load_reward(name, "cpu")(images, ["a", "b"]).isfinite().all()


# statistics


def test_statistics_of_pictures_that_are_known():
    red = torch.zeros(3, 3, 64, 64)
    red[:, 0] = 1
    told = statistics(red)
    assert told["saturation"].tolist() == [1, 1, 1] and told["edge density"].tolist() == [0, 0, 0]
    assert told["entropy"].tolist() == [0, 0, 0] and told["diversity"].tolist() == pytest.approx([0, 0, 0])
    grey = torch.linspace(0, 1 - 1e-6, 64).repeat(3, 3, 64, 1)
    told = statistics(grey)
    assert told["saturation"].tolist() == [0, 0, 0]
    assert told["entropy"].tolist() == pytest.approx([6, 6, 6])
    assert told["edge density"].tolist() == pytest.approx([1 / 63 / 2] * 3, rel=1e-4), "across, not down"


def test_diversity_is_the_mean_over_all_pairs():
    images = pictures(5, 64)
    small = torch.nn.functional.interpolate(images, (32, 32), mode="area")
    pairs = [(small[i] - small[j]).square().mean().sqrt() for i in range(5) for j in range(i)]
    assert float(statistics(images)["diversity"].mean()) == pytest.approx(float(torch.stack(pairs).mean()))
    assert statistics(images[:2])["diversity"].isnan().all(), "not defined for so few"


# the mix


def brightness(images, prompts):
    return images.mean((1, 2, 3))


def redness(images, prompts):
    return 100 * images[:, 0].mean((1, 2))


def mix(*, running: bool = False, given: dict | None = None, differentiable: bool = True) -> Mix:
    parts = {
        "bright": FunctionReward("bright", True, brightness),
        "red": FunctionReward("red", differentiable, redness),
    }
    return Mix(parts, {"bright": 0.5, "red": -2.0}, given or {}, running=running)


def calibrated(made: Mix, images: torch.Tensor) -> Mix:
    made.calibrate(made.measure(images, ["a"] * len(images)).parts)
    return made


def test_parts_are_brought_to_one_scale():
    start, images = pictures(8), pictures()
    made = calibrated(mix(), start)
    bright, red = brightness(start, []), redness(start, [])
    expected = 0.5 * (brightness(images, []) - bright.mean()) / bright.std()
    expected -= 2 * (redness(images, []) - red.mean()) / red.std()
    torch.testing.assert_close(made(images, PROMPTS), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.measure(images, PROMPTS).total, expected, atol=1e-4, rtol=1e-4)


def test_a_given_scale_is_not_measured():
    made = calibrated(mix(given={"bright": (0.25, 0.5)}, running=True), pictures(8))
    assert made.start["bright"] == (0.25, 0.5)
    made(pictures(), PROMPTS)
    made.settle()
    assert made.start["bright"] == (0.25, 0.5) and made.state_dict()["spreads"].keys() == {"red"}


def test_a_running_spread_is_that_of_all_pictures_so_far():
    start, later = pictures(8), pictures(6) ** 2
    made = calibrated(mix(running=True), start)
    fixed = calibrated(mix(), start)
    before = made(later[:3], PROMPTS)
    torch.testing.assert_close(before, fixed(later[:3], PROMPTS)), "the scale moves only between iterations"
    made(later[3:], PROMPTS)
    means = made.settle()
    assert means["red"] == pytest.approx(float(redness(later, []).mean()))
    everything = redness(torch.cat([start, later]), [])
    assert made._scale()["red"][1] == pytest.approx(float(everything.double().std()))
    assert made._scale()["red"][0] == pytest.approx(float(redness(start, []).mean())), "0 stays where it was"
    assert fixed._scale() == fixed.start


def test_the_scale_comes_back_from_a_checkpoint():
    made = calibrated(mix(running=True), pictures(8))
    made(pictures(), PROMPTS)
    made.settle()
    again = mix(running=True)
    again.load_state_dict(made.state_dict())
    images = pictures()
    assert torch.equal(made(images, PROMPTS), again(images, PROMPTS)) and again.calibrated


def test_measuring_teaches_nothing():
    """A look is on the scale of the start, and leaves no trace in the running one."""
    made = calibrated(mix(running=True), pictures(8))
    made(pictures(), PROMPTS)
    made.settle()
    before, images = made.state_dict(), pictures().requires_grad_()
    looked = made.measure(images, PROMPTS)
    assert not looked.total.requires_grad and looked.parts.keys() == {"bright", "red"}
    torch.testing.assert_close(looked.parts["red"], redness(images, []).detach())
    assert not torch.equal(looked.total, made(images, PROMPTS)), (
        "the running scale has moved away from the start"
    )
    made.forget()
    assert made.settle() == {} and made.state_dict() == before


def test_an_interrupted_iteration_is_forgotten():
    made, images = calibrated(mix(running=True), pictures(8)), pictures()
    before = made.state_dict()
    made(pictures(), PROMPTS)
    made.forget()
    made(images, PROMPTS)
    assert made.settle()["red"] == pytest.approx(float(redness(images, []).mean()))
    again = calibrated(mix(running=True), pictures(8))
    again.load_state_dict(before)
    again(images, PROMPTS)
    again.settle()
    assert again.state_dict() == made.state_dict() != before


class Party:
    """Processes, as threads, that add up tensors."""

    def __init__(self, size: int):
        self._barrier, self._given = threading.Barrier(size, timeout=20), {}

    def seat(self, number: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def total(tensor: torch.Tensor) -> torch.Tensor:
            self._given[number] = tensor
            self._barrier.wait()
            summed = torch.stack([self._given[k] for k in sorted(self._given)]).sum(0)
            self._barrier.wait()
            return summed

        return total


def settled_together(batches: list[list[torch.Tensor]], start: torch.Tensor, *, deaf: bool = False):
    """Means and states of one mix for each list of batches, after they settle at once; deaf ones hear only themselves."""
    party, made = Party(len(batches)), [calibrated(mix(running=True), start) for _ in batches]
    for each, mine in zip(made, batches, strict=True):
        for images in mine:
            each(images, ["a"] * len(images))
    with ThreadPoolExecutor(len(batches)) as pool:
        means = list(
            pool.map(lambda k: made[k].settle(alone if deaf else party.seat(k)), range(len(batches)))
        )
    return means, [each.state_dict() for each in made]


def flat(means: dict, state: dict) -> list[float]:
    return [*means.values(), *(number for spread in state["spreads"].values() for number in spread)]


def test_processes_that_share_a_batch_learn_what_one_would():
    """To float precision; the second process has scored nothing yet, the third twice."""
    start, mine = pictures(8), [[pictures(5)], [], [pictures(2), pictures(4) ** 2]]
    (means,), (state,) = settled_together([[images for each in mine for images in each]], start)
    for others, learned in zip(*settled_together(mine, start), strict=True):
        assert flat(others, learned) == pytest.approx(flat(means, state), rel=1e-6)
    for others, learned in zip(*settled_together(mine, start, deaf=True), strict=True):
        assert flat(others, learned) != pytest.approx(flat(means, state), rel=1e-6), "the check can fail"


def test_a_score_that_is_not_finite_reaches_the_scale_of_no_process():
    start, broken = pictures(8), pictures(3)
    broken[0] = torch.nan
    fresh = calibrated(mix(running=True), start).state_dict()
    _, states = settled_together([[broken], [pictures(3)]], start)
    assert states == [fresh, fresh]


def test_a_wrapped_mix_is_the_same_with_every_part_wrapped():
    made, called = calibrated(mix(running=True), pictures(8)), []
    made.parts = {name: replace(part, networks=(name,)) for name, part in made.parts.items()}

    def wrap(networks, function):
        return lambda *arguments: called.append(networks) or function(*arguments)

    wrapped, images = made.wrapped(wrap), pictures()
    assert torch.equal(wrapped(images, PROMPTS), made(images, PROMPTS)) and called == [("bright",), ("red",)]
    assert wrapped.networks == ("bright", "red") and wrapped.state_dict() == made.state_dict()


def test_scores_that_are_not_finite_do_not_reach_the_scale():
    made = calibrated(mix(running=True), pictures(8))
    before = made.state_dict()
    images = pictures()
    images[0] = torch.nan
    assert made(images, PROMPTS).isnan().tolist() == [True, False, False]
    made.settle()
    assert made.state_dict() == before


def test_spread_in_batches_is_spread_at_once():
    values, spread = torch.randn(50) * 3 + 1000, Spread()
    for batch in values.split([1, 7, 30, 12]):
        spread.add(Spread.of(batch))
    assert spread.mean == pytest.approx(float(values.double().mean()))
    assert spread.deviation == pytest.approx(float(values.double().std()), rel=1e-6)


def test_gradients_flow_if_every_part_has_one():
    images = pictures().requires_grad_()
    made = calibrated(mix(), pictures(8))
    (gradient,) = torch.autograd.grad(made(images, PROMPTS).sum(), images)
    assert made.differentiable and gradient.abs().sum() > 0
    dull = mix(differentiable=False)
    assert not dull.differentiable and dull.name == "mix: 0.5 bright + -2 red (black box)"


@pytest.mark.parametrize("scores", [torch.ones(8), torch.full((8,), torch.nan)])
def test_a_part_without_a_spread_is_named(scores):
    with pytest.raises(RewardError, match=r"part 'bright' of the mix(.|\n)*mix_spread"):
        mix().calibrate({"bright": scores, "red": torch.randn(8)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix": {}}, r"empty reward.mix(.|\n)*embedded = 0.7"),
        ({"mix": {"sharpnes": 1.0}}, "did you mean 'sharpness'"),
        ({"mix": {"sharpness": 0.0}}, r"weight of 0(.|\n)*reward.watch"),
        ({"mix": {"sharpness": 1.0}, "mix_mean": {"sharp": 1.0}}, "did you mean 'sharpness'"),
        ({"mix": {"sharpness": 1.0}, "mix_mean": {"sharpness": 1.0}}, "both for the same parts"),
        (
            {"mix": {"sharpness": 1.0}, "mix_mean": {"sharpness": 1.0}, "mix_spread": {"sharpness": 0.0}},
            "spreads above 0",
        ),
    ],
)
def test_mixes_that_cannot_work(settings, message):
    with pytest.raises(RewardError, match=message):
        load_mix(RewardConfig(name="mix", **settings), "cpu")


# in a run


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


def mixed(workshop: Path, *, gradient: bool = True, **overrides):
    parts = {f"{workshop / 'reward.py'}:red": 0.7, "sharpness": 0.3}
    if gradient:
        parts = {f"{workshop / 'reward.py'}:red": 1.0}
    watch = {"reward__watch": ["jpeg-compressibility"]}
    return runs.config(workshop, reward__name="mix", reward__mix=parts, **{**watch, **overrides})


BLACK_BOX = {"estimator__first_order_steps": 0, "training__iterations": 4}


def test_parts_watched_rewards_and_statistics_are_told(workshop):
    told = list(Trainer(prepare(mixed(workshop, gradient=False, **BLACK_BOX))).run())
    for event in told:
        if isinstance(event, Evaluation):
            assert [len(values) for values in event.parts.values()] == [len(event.prompts)] * 2
            assert event.watched["jpeg-compressibility"].shape == event.scores.shape
            assert set(event.statistics) == {"saturation", "edge density", "entropy", "diversity"}
        if isinstance(event, Iteration):
            assert [name.rpartition("/")[2] for name in event.reward_parts] == ["reward.py:red", "sharpness"]
            assert event.measured_on == "finished pictures"


def test_what_lookahead_is_trained_on_is_called_predicted(workshop):
    made = Trainer(prepare(mixed(workshop, estimator__name="lookahead")))
    event = made.iterate()
    assert isinstance(event, Iteration) and event.measured_on == "predicted pictures"


def test_a_mix_with_a_black_box_says_which_part_has_no_gradient(workshop):
    with pytest.raises(EstimatorError, match=r"sharpness \(black box\)'(.|\n)*--preset black-box"):
        prepare(mixed(workshop, gradient=False))


def test_looking_at_pictures_changes_no_scale(workshop):
    """Previews, evaluations and what `rlr bench learn` looks at: the scale that training uses is as before."""
    config = mixed(workshop, gradient=False, estimator__name="reinforce")
    made = Trainer(prepare(config))
    made.iterate()
    before = made.setup.reward.state_dict()
    exhaust(preview(made.setup, 1, nullcontext))
    exhaust(evaluation(made.setup, "during", 1, 3, nullcontext))
    learn._look(made, config, learn.Budget(1, 1.0, 1, pictures=3), 0.0, 0.0)
    assert made.setup.reward.settle() == {} and made.setup.reward.state_dict() == before
    made.iterate()
    assert made.setup.reward.state_dict() != before, "training does change it"


def exhaust(generator) -> None:
    assert all(isinstance(event, Painting) for event in generator)


def test_a_learning_curve_is_on_one_scale(workshop):
    """Its first point is no exception: the reward of pictures at the start, with mean 0 and spread 1."""
    config = mixed(workshop, gradient=False, estimator__name="reinforce", training__learning_rate=0.0)
    settings = {
        "config": to_dict(config),
        "budget": {"evaluations": 1, "seconds": 0.0, "points": 1, "pictures": 3},
    }
    first, last = learn.learn(settings)["points"]
    assert first["reward"] == last["reward"] and abs(first["reward"]) < 5, (
        "sharpness alone is in the thousands"
    )


def test_a_mix_is_resumed_bit_for_bit(workshop, tmp_path):
    config = mixed(workshop, gradient=False, **BLACK_BOX)
    runner.start(config, tmp_path / "straight", lambda event: None)

    def crash(event) -> None:
        if isinstance(event, Iteration) and event.iteration == 3:
            raise MemoryError

    with pytest.raises(MemoryError):
        runner.start(config, tmp_path / "run", crash)
    runner.resume(tmp_path / "run", lambda event: None)
    runs.assert_same_run(tmp_path / "run", tmp_path / "straight")
    after = [e for e in log.read(tmp_path / "run" / "events.jsonl") if e["type"] == "evaluation"][-1]
    assert len(after["parts"]) == 2 and len(after["watched"]["jpeg-compressibility"]) == 3
