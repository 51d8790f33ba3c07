"""The learned critic: what its surrogate learns, how it is known what that is worth, and that it is climbed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toy import STEPS, painted_problem, toy_batch

from rlr_core.config import EstimatorConfig
from rlr_core.estimators import Estimator, Problem, build, surrogate
from rlr_core.estimators.surrogate import Surrogate

CPU = torch.device("cpu")


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, generator: torch.Generator, side: int = 16) -> Tensor:
    """Noise about a colour each."""
    colour = torch.rand(count, 3, 1, 1, generator=generator)
    return (colour + 0.2 * torch.randn(count, 3, side, side, generator=generator)).clamp(0, 1)


def redness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images[:, 0].mean((1, 2))


def as_asked(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Red where the prompt says so, else not."""
    sign = torch.tensor([1.0 if "red" in prompt else -1.0 for prompt in prompts])
    return sign * redness(images, prompts)


def roughness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Of neighbours, whatever the colour is."""
    return (images[..., 1:] - images[..., :-1]).abs().mean((1, 2, 3))


def noise(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return torch.randn(len(images), generator=draws(int(1e6 * images.sum())))


def taught(
    reward: Any, batches: int = 24, prompts: Sequence[str] = ("a red sea", "a blue sea") * 4
) -> Surrogate:
    learned, generator = Surrogate.new(CPU), draws()
    for _ in range(batches):
        images = pictures(len(prompts), generator)
        learned.learn(images, prompts, reward(images, prompts), generator)
    return learned


@pytest.mark.parametrize("reward", [redness, as_asked, roughness])
def test_what_a_reward_says_is_learned(reward):
    """On new pictures, with a gradient that leads to higher scores."""
    learned = taught(reward)
    assert learned.worth > 0.6
    prompts = ["a red sea", "a blue sea"] * 16
    images = pictures(32, draws(1)).requires_grad_()
    (slope,) = torch.autograd.grad(learned(images, prompts).sum(), images)
    moved = (images + 0.05 * slope / slope.flatten(1).norm(dim=1)[:, None, None, None] * 16).clamp(0, 1)
    assert (reward(moved, prompts) > reward(images, prompts)).float().mean() > 0.8


def test_a_critic_of_noise_is_worth_nothing():
    """Whatever it remembers of the pictures that it was shown, and whichever of two texts gets the higher scores."""
    worth = []

    def noise_of_two_texts(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return noise(images, prompts) + 3 * torch.tensor(["red" in prompt for prompt in prompts])

    for reward in (noise, noise_of_two_texts):
        worth += [taught(reward, batches).worth for batches in (4, 8, 12, 16)]
    assert sum(worth) / len(worth) < 0.1 and max(worth) < 0.4, worth


def test_it_knows_nothing_before_it_was_judged():
    assert Surrogate.new(CPU).worth == 0
    assert taught(redness, batches=1).worth == 0


def test_what_is_not_finite_teaches_nothing():
    learned, generator = Surrogate.new(CPU), draws()
    images = pictures(4, generator)
    learned.learn(images, ["a"] * 4, torch.tensor([float("nan")] * 4), generator)
    assert learned.images == [] and learned.worth == 0
    learned.learn(images, ["a"] * 4, torch.tensor([1.0, float("inf"), 2.0, 3.0]), generator)
    assert learned.scores == [1.0, 2.0, 3.0]
    assert all(p.isfinite().all() for p in learned.network.parameters())


def test_the_newest_pictures_are_remembered(monkeypatch):
    monkeypatch.setattr(surrogate, "REMEMBERED", 10)
    learned, generator = Surrogate.new(CPU), draws()
    for k in range(4):
        images = pictures(4, generator)
        learned.learn(images, ["a"] * 4, torch.arange(4.0) + 4 * k, generator)
    assert learned.scores == [*map(float, range(6, 16))] == learned.scores[-10:]
    assert len(learned.images) == len(learned.texts) == 10
    monkeypatch.setattr(surrogate, "BYTES", 3 * 16 * 16 * 2 + 1)
    learned.learn(pictures(4, generator), ["a"] * 4, torch.arange(4.0), generator)
    assert learned.scores == [2.0, 3.0], "two have so many bytes"
    monkeypatch.setattr(surrogate, "BYTES", 1)
    learned.learn(pictures(4, generator), ["a"] * 4, torch.arange(4.0), generator)
    assert learned.scores == [3.0], "one, however large"


def test_pictures_of_several_sizes_are_learned():
    learned, generator = Surrogate.new(CPU), draws()
    for k in range(24):
        images = pictures(8, generator, side=(8, 16, 24)[k % 3])
        learned.learn(images, ["a"] * 8, redness(images, []), generator)
    assert learned.worth > 0.6


def test_pictures_of_one_score_are_worth_nothing():
    learned, generator = Surrogate.new(CPU), draws()
    for _ in range(4):
        learned.learn(pictures(8, generator), ["a"] * 8, torch.ones(8), generator)
    assert learned.worth == 0
    assert all(p.isfinite().all() for p in learned.network.parameters())


# The estimator


def made(**settings: Any) -> Estimator:
    return build(
        EstimatorConfig(name="learned_critic", starts_from=0.0, starts_until=1.0, chunk=2, **settings), STEPS
    )


def climbed(problem: Problem, estimator: Estimator, iterations: int = 60) -> list[float]:
    """The rewards of Adam's iterations."""
    optimizer, rewards = torch.optim.Adam(problem.parameters, lr=0.02), []
    for k in range(iterations):
        estimate = estimator(problem, toy_batch(8, seed=k))
        rewards.append(float(estimate.rewards.mean()))
        for p, part in zip(
            problem.parameters, estimate.gradient.split([p.numel() for p in problem.parameters]), strict=True
        ):
            p.grad = -part.view_as(p)
        optimizer.step()
    return rewards


def test_a_reward_without_a_gradient_is_climbed():
    rewards = climbed(painted_problem(differentiable=False), made())
    assert sum(rewards[-10:]) / 10 > sum(rewards[:10]) / 10 + 0.3, rewards


def test_a_critic_that_knows_nothing_moves_nothing():
    class Noise:
        name, differentiable = "noise", False

        def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return noise(images, prompts)

    problem = replace(painted_problem(), reward=Noise())
    before = [p.detach().clone() for p in problem.parameters]
    estimator = made()
    first = estimator(problem, toy_batch(8, seed=0))
    assert first.norm == 0 and first.finite
    assert all(torch.equal(p, b) for p, b in zip(problem.parameters, before, strict=True))


def test_it_costs_a_rollout_and_its_starts():
    """T forward, and forward and backward at each start."""
    estimate = made(draws=3)(painted_problem(differentiable=False), toy_batch(8, seed=0))
    assert estimate.cost.evaluations / 8 == STEPS + 3 * 3


def test_it_goes_on_bit_for_bit():
    straight, resumed, problem = made(), made(), painted_problem(differentiable=False)
    for seed in range(4):
        straight(problem, toy_batch(8, seed))
    kept = io.BytesIO()
    torch.save(straight.state_dict(), kept)
    kept.seek(0)
    resumed.load_state_dict(torch.load(kept, weights_only=True))
    for seed in range(4, 6):
        found = [each(problem, toy_batch(8, seed)).gradient for each in (straight, resumed)]
        assert torch.equal(*found) and found[0].any()


def test_what_is_undone_is_forgotten():
    """As after an interruption: the state from before is not changed by what was learned since."""
    estimator, problem = made(), painted_problem(differentiable=False)
    for seed in range(4):
        estimator(problem, toy_batch(8, seed))
    before = estimator.state_dict()
    once = estimator(problem, toy_batch(8, 4)).gradient
    estimator.load_state_dict(before)
    assert torch.equal(estimator(problem, toy_batch(8, 4)).gradient, once)
    estimator.load_state_dict({})
    assert estimator(problem, toy_batch(8, 4)).norm == 0
