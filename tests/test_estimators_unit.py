"""What estimators refuse, restore, remember and repeat."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toy import STEPS, QuadraticReward, painted_problem, toy_batch, toy_problem

from rlr_core.chain import Level, Prediction, variance_exploding, variance_preserving
from rlr_core.config import EstimatorConfig
from rlr_core.errors import ConfigError, EstimatorError
from rlr_core.estimators import (
    ESTIMATORS,
    Alone,
    Antithetic,
    ClippedPolicyGradient,
    Estimate,
    Estimator,
    HalfOrder,
    LeaveOneOut,
    NoBaseline,
    OneSubChain,
    Part,
    Problem,
    RecursiveLikelihoodRatio,
    RunningMean,
    build,
    ignored_settings,
)
from rlr_core.estimators.estimate import GradientMean
from rlr_core.estimators.length import length, scaled_to_unit
from rlr_core.estimators.sub_chains import partition
from rlr_core.estimators.zeroth_order import PerturbedChain, direction, perturbed

FITTING = {"first_order_steps": 1, "sub_chain_length": 2, "chunk": 2}
NEEDS_GRADIENT = {
    "rlr",
    "published",
    "v1",
    "v2",
    "v3",
    "draft",
    "draft_lv",
    "refl",
    "lookahead",
    "alignprop",
    "full_bp",
    "flow_bp",
    "auto",
    "rsm",
}
BIASED = {
    "auto",
    "rsm",
    "flow_bp",
    "v1",
    "v2",
    "draft",
    "draft_lv",
    "refl",
    "lookahead",
    "alignprop",
    "nft",
    "learned_critic",
}
NEEDS_NOISE = {"rlr", "published", "v2", "half", "reinforce", "ddpo"}


def make(name: str, **settings: Any) -> Estimator:
    return build(EstimatorConfig(name=name, **{**FITTING, **settings}), STEPS)


def problem_of(name: str, **options: Any) -> Problem:
    """The toy; with pictures for what has to look at them."""
    return (painted_problem if name == "learned_critic" else toy_problem)(**options)


def refusal(estimator: Estimator, problem: Problem, batch_size: int = 8) -> str:
    with pytest.raises(EstimatorError) as caught:
        estimator.check(problem, batch_size)
    message = str(caught.value)
    assert "expected:" in message and "what to do:" in message
    return message


def gradient(estimator: Estimator, problem: Problem | None = None, seed: int = 0, size: int = 8) -> Tensor:
    return estimator(problem or toy_problem(), toy_batch(size, seed)).gradient


# What they refuse


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_fitting_settings_are_accepted(name: str) -> None:
    make(name).check(problem_of(name), 8)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_a_reward_without_gradient(name: str) -> None:
    """First order names itself and the reward; all others work."""
    problem = problem_of(name, differentiable=False)
    if name in NEEDS_GRADIENT:
        message = refusal(make(name), problem)
        assert "first-order" in message and "'quadratic'" in message and "half" in message
    else:
        make(name).check(problem, 8)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_a_chain_without_noise(name: str) -> None:
    problem = problem_of(name, eta=0.0)
    if name in NEEDS_NOISE:
        message = refusal(make(name), problem)
        assert "η = 0" in message and "sampling.eta" in message
    else:
        make(name).check(problem, 8)


def silent_end(problem: Problem) -> Problem:
    """The same problem, with a last step that adds no noise."""
    cumulative = torch.tensor([0.1, 0.3, 0.54, 0.76], dtype=torch.float64)
    return replace(problem, schedule=variance_preserving(cumulative, torch.arange(STEPS), 1.0))


@pytest.mark.parametrize("name", ["half", "reinforce"])
def test_a_likelihood_ratio_at_a_last_step_without_noise(name: str) -> None:
    message = refusal(make(name), silent_end(toy_problem()))
    assert f"step {STEPS - 1}" in message and "adds no noise" in message


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - {"half", "reinforce"}))
def test_the_others_work_with_a_last_step_without_noise(name: str) -> None:
    problem, estimator = silent_end(problem_of(name)), make(name)
    estimator.check(problem, 8)
    for earlier in range(10, 14):  # a critic has to learn first
        estimator(problem, toy_batch(8, earlier))
    estimate = estimator(problem, toy_batch(8, 0))
    assert estimate.finite and estimate.norm > 0
    assert estimator.coverage(problem).shape == (STEPS,)


def test_ddpo_does_not_cover_a_step_without_noise() -> None:
    assert make("ddpo").coverage(silent_end(toy_problem())).tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("name", ["rlr", "published", "v2"])
def test_a_sub_chain_that_is_too_long(name: str) -> None:
    message = refusal(make(name, sub_chain_length=STEPS), toy_problem())
    assert f"sub-chains of {STEPS} steps" in message and f"at most {STEPS - 1}" in message
    make(name, sub_chain_length=STEPS - 1).check(toy_problem(), 8)
    make("half", sub_chain_length=STEPS).check(toy_problem(), 8)


def test_a_lookahead_that_reaches_beyond_the_chain() -> None:
    message = refusal(make("lookahead", sub_chain_length=STEPS + 1), toy_problem())
    assert f"of {STEPS + 1} steps" in message and f"at most {STEPS}" in message
    make("lookahead", sub_chain_length=STEPS).check(toy_problem(), 8)


@pytest.mark.parametrize(("first", "last"), [(0.5, 0.5), (0.9, 0.1)])
def test_a_lookahead_without_a_window(first: float, last: float) -> None:
    message = refusal(make("lookahead", starts_from=first, starts_until=last), toy_problem())
    assert f"from {first} to {last}" in message and "starts_until" in message


def test_unit_gradients_are_a_mean_of_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal to scaling every picture's own gradient by hand, whatever its length."""
    singles: list[Tensor] = []
    record = GradientMean.add

    def noting(self: GradientMean, vector: Tensor) -> None:
        singles.append(vector.clone())
        record(self, vector)

    settings = {"chunk": 1, "sub_chain_length": 1}
    with monkeypatch.context() as patch:
        patch.setattr(GradientMean, "add", noting)
        gradient(make("lookahead", unit=False, **settings))
    lengths = torch.stack([g.norm() for g in singles])
    assert len(singles) == 8 and lengths.max() > 2 * lengths.min()
    expected = torch.stack([g / g.norm() for g in singles]).mean(0)
    torch.testing.assert_close(gradient(make("lookahead", unit=True, **settings)), expected)


def test_a_unit_gradient_of_nothing_is_zero_and_nan_is_not_hidden() -> None:
    assert scaled_to_unit(torch.zeros(3)).tolist() == [0, 0, 0]
    assert not scaled_to_unit(torch.tensor([1.0, float("nan")])).isfinite().all()
    assert not scaled_to_unit(torch.tensor([1.0, float("inf")])).isfinite().all()


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1.0, 1e20, 1e37])
def test_the_length_of_a_gradient_is_known_at_any_scale(scale: float) -> None:
    gradient = scale * torch.tensor([3.0, 4.0])
    assert length(gradient) == pytest.approx(5 * scale, rel=1e-2)
    torch.testing.assert_close(scaled_to_unit(gradient), torch.tensor([0.6, 0.8]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("window", [0, STEPS + 1])
def test_a_refl_window_that_does_not_fit_the_chain(window: int) -> None:
    message = refusal(make("refl", first_order_steps=window), toy_problem())
    assert f"last {window} steps" in message and f"1 to {STEPS}" in message


def test_a_lookahead_needs_a_step_to_look_ahead_from() -> None:
    """Where there is no first-order part, the last sub-chain ends at the finished picture."""
    message = refusal(make("half", sub_chain_end="lookahead_baseline"), toy_problem())
    assert "finished picture" in message and "antithetic" in message


def test_a_lookahead_alone_needs_no_noise() -> None:
    estimator, problem = make("rlr", sub_chain_end="lookahead"), toy_problem(eta=0.0)
    estimator.check(problem, 8)
    assert estimator(problem, toy_batch(8, 0)).finite


def test_the_slope_of_a_lookahead_needs_a_reward_with_a_gradient() -> None:
    problem = toy_problem(differentiable=False)
    for end in ("control_variate", "lookahead"):
        assert "lookahead" in refusal(make("half", sub_chain_end=end), problem)


@pytest.mark.parametrize("steps", [0, STEPS + 1])
def test_a_truncation_that_does_not_fit_the_chain(steps: int) -> None:
    message = refusal(make("draft", first_order_steps=steps), toy_problem())
    assert f"of {steps} steps" in message and f"1 to {STEPS}" in message


@pytest.mark.parametrize("name", ["rlr", "ddpo"])
def test_a_chunk_that_does_not_divide_the_batch(name: str) -> None:
    message = refusal(make(name, chunk=3), toy_problem(), 8)
    assert "batch of 8 in chunks of 3" in message and "divisor of 8" in message


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_more_processes_than_chunks(name: str) -> None:
    class Three(Alone):
        size = 3

    problem = replace(problem_of(name), collective=Three())
    message = refusal(make(name, chunk=4), problem, 8)
    assert "batch of 8 in chunks of 4 for 3 processes" in message and "fewer processes" in message
    make(name, chunk=4).check(problem, 12)


def test_normalised_advantages_of_a_single_picture() -> None:
    assert "batch of 1" in refusal(make("ddpo", normalise=True, chunk=1), toy_problem(), 1)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'published'") as caught:
        build(EstimatorConfig(name="publshed"), STEPS)
    assert "full_bp" in str(caught.value)


def test_settings_that_an_estimator_does_not_read_are_named() -> None:
    assert ignored_settings(EstimatorConfig()) == []
    config = EstimatorConfig(name="v1", sigma=0.5, first_order_steps=3, chunk=4)
    assert ignored_settings(config) == ["first_order_steps", "sigma"]
    assert ignored_settings(EstimatorConfig(name="published", sigma=0.5, sub_chain_length=1)) == []


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_every_setting_that_is_said_to_be_read_exists(name: str) -> None:
    for setting in ESTIMATORS[name].uses:
        assert hasattr(EstimatorConfig(), setting)
    assert ESTIMATORS[name].summary


# Where they start


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_every_chain_starts_as_wide_as_its_path(name: str) -> None:
    """√(1 + 14.6²) for a path that explodes from σ = 14.6: what the denoiser is shown at the first level."""
    schedule, shown = variance_exploding(torch.tensor([14.6, 5.0, 1.0, 0.3, 0.1])), []
    problem, batch = replace(problem_of(name), schedule=schedule), toy_batch(8, 0)

    def noting(x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        shown.append(x[level.sigma == schedule.sigma[0]].detach())
        return problem.denoiser(x, level, conditioning)

    make(name, starts_from=0.0)(replace(problem, denoiser=noting), batch)
    expected = math.sqrt(1 + 14.6**2) * batch.noise.initial()
    first = torch.cat(shown)
    assert len(first) and torch.cdist(first, expected).min(1).values.max() < 1e-5


# Black-box rewards


class PlainPythonReward:
    """A reward that torch knows nothing of, and that would fail if it were given a graph."""

    name, differentiable = "plain", False

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert not images.requires_grad
        rows = images.numpy().tolist()
        return torch.tensor(
            [-math.hypot(*row) + len(prompt) for row, prompt in zip(rows, prompts, strict=True)]
        )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("half", {}), ("half", {"sub_chain_end": "plain"}), ("reinforce", {}), ("ddpo", {}),
        ("zeroth", {"antithetic": True}), ("zeroth", {"antithetic": False}),
        ("rlr", {"first_order_steps": 0}), ("nft", {}),
    ],
)  # fmt: skip
def test_any_python_function_can_be_the_reward(name: str, settings: dict[str, Any]) -> None:
    problem = replace(toy_problem(), reward=PlainPythonReward())
    estimator = make(name, **settings)
    estimator.check(problem, 8)
    estimate = estimator(problem, toy_batch(8, 0))
    assert estimate.finite and estimate.norm > 0
    assert estimate.gradient.dtype == torch.float64 and estimate.rewards.shape == (8,)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_a_reward_that_is_not_finite_is_reported_and_not_learned(name: str) -> None:
    problem = problem_of(name)

    class Broken:
        name, differentiable = "broken", True

        def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return problem.reward(images, prompts) * float("nan")

    ends = {"sub_chain_end": "control_variate"} if name == "rlr" else {}
    estimator = make(name, baseline="running_mean", **ends)
    before = copy.deepcopy(estimator.state_dict())
    estimate = estimator(replace(problem, reward=Broken()), toy_batch(8, 0))
    assert not estimate.finite
    assert estimator.state_dict().get("baseline") == before.get("baseline")
    assert estimator.state_dict().get("end") == before.get("end")
    assert estimator.state_dict().get("sub_chains") == before.get("sub_chains")
    assert estimator(problem, toy_batch(8, 1)).finite


# Perturbed parameters


def test_perturbed_parameters_come_back_bit_for_bit() -> None:
    parameters = [
        torch.randn(3, 4).requires_grad_(),
        torch.randn(5, dtype=torch.float32).mul(1e-3).requires_grad_(),
    ]
    before = [p.detach().clone() for p in parameters]
    with perturbed(parameters, 7, 0.3):
        for p, old, e in zip(parameters, before, direction(parameters, 7), strict=True):
            assert torch.allclose(p.detach(), old + 0.3 * e)
            assert not torch.equal(p.detach(), old)
    assert all(torch.equal(p.detach(), old) for p, old in zip(parameters, before, strict=True))
    with pytest.raises(RuntimeError, match="stop"), perturbed(parameters, 7, 1e30):
        raise RuntimeError("stop")
    assert all(torch.equal(p.detach(), old) for p, old in zip(parameters, before, strict=True))
    assert all(p.requires_grad and p.is_leaf for p in parameters)


@pytest.mark.parametrize("name", ["published", "v3", "zeroth"])
def test_an_exception_in_the_reward_leaves_the_parameters_alone(name: str) -> None:
    class Raises(QuadraticReward):
        def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            raise RuntimeError("the reward failed")

    problem = replace(toy_problem(), reward=Raises())
    before = [p.detach().clone() for p in problem.parameters]
    with pytest.raises(RuntimeError, match="the reward failed"):
        make(name)(problem, toy_batch(8, 0))
    assert all(torch.equal(p.detach(), old) for p, old in zip(problem.parameters, before, strict=True))


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_an_estimate_changes_no_parameter_and_leaves_no_gradient_behind(name: str) -> None:
    problem = problem_of(name)
    before = [p.detach().clone() for p in problem.parameters]
    make(name)(problem, toy_batch(8, 0))
    assert all(torch.equal(p.detach(), old) for p, old in zip(problem.parameters, before, strict=True))
    assert all(p.grad is None for p in problem.parameters)


def test_a_perturbation_is_the_same_whenever_it_is_regenerated() -> None:
    parameters = toy_problem().parameters
    first, again = direction(parameters, 5), direction(parameters, 5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert [e.shape for e in first] == [p.shape for p in parameters]
    assert not torch.equal(first[0], direction(parameters, 6)[0])


def test_a_perturbed_step_cannot_be_differentiated() -> None:
    problem = toy_problem()
    chain = problem.chain(toy_batch(4, 0))
    mask = torch.tensor([[True, False, False, False]] * 4)
    walked = PerturbedChain(chain, problem.parameters, 0, 0.1, mask)
    x, samples = torch.zeros(4, 2, dtype=torch.float64), torch.arange(4)
    with pytest.raises(AssertionError, match="cannot be differentiated"):
        walked.move(x, torch.zeros(4, dtype=torch.long), samples)
    assert walked.move(x, torch.ones(4, dtype=torch.long), samples).mean.requires_grad


def test_samples_of_one_chunk_may_be_perturbed_at_different_steps() -> None:
    problem = toy_problem()
    chain = problem.chain(toy_batch(4, 0))
    mask = torch.tensor([[True], [False], [True], [False]]).expand(4, STEPS)
    walked = PerturbedChain(chain, problem.parameters, 3, 0.2, mask)
    x, samples, step = torch.randn(4, 2, dtype=torch.float64), torch.arange(4), torch.tensor([0, 0, 2, 2])
    with torch.no_grad():
        mixed, plain = walked.move(x, step, samples), chain.move(x, step, samples)
        with perturbed(problem.parameters, 3, 0.2):
            moved = chain.move(x, step, samples)
    assert torch.equal(mixed.scale, plain.scale)
    for row in range(4):
        assert torch.allclose(mixed.mean[row], (plain if row % 2 else moved).mean[row], rtol=1e-14)


# Repetition and memory


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_the_same_batch_gives_the_same_bits(name: str) -> None:
    def found(seed: int) -> Tensor:
        estimator, problem = make(name), problem_of(name)
        for earlier in range(10, 14):  # a critic has to learn first
            gradient(estimator, problem, seed=earlier)
        return gradient(estimator, problem, seed=seed)

    first, again, other = (found(seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


MEMORIES = [
    ("rlr", {"sub_chains": "learned", "sub_chain_length": 1}),
    ("rlr", {"baseline": "running_mean", "sub_chain_end": "plain"}),
    ("rlr", {"sub_chain_end": "control_variate", "sub_chain_length": 1}),
    ("published", {"baseline": "running_mean"}), ("ddpo", {"baseline": "running_mean"}),
    ("nft", {"baseline": "running_mean"}), ("full_bp", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), MEMORIES)
def test_a_resumed_estimator_goes_on_bit_for_bit(name: str, settings: dict[str, Any]) -> None:
    straight = make(name, **settings)
    for seed in range(3):
        gradient(straight, seed=seed)
    resumed = make(name, **settings)
    resumed.load_state_dict(saved_and_loaded(straight.state_dict()))
    for seed in range(3, 6):
        assert torch.equal(gradient(straight, seed=seed), gradient(resumed, seed=seed))
    assert str(straight.state_dict()) == str(resumed.state_dict())


def test_what_was_learned_matters() -> None:
    """So that the round trip above is not one of nothing."""
    for name, settings in MEMORIES[:-1]:
        taught = make(name, **settings)
        gradient(taught, seed=0)
        assert not torch.equal(gradient(taught, seed=1), gradient(make(name, **settings), seed=1))


# DDPO's clip and reuse


def ddpo(clip: float, reuse: int = 2) -> ClippedPolicyGradient:
    return ClippedPolicyGradient(clip, LeaveOneOut(), batch_reuse=reuse, chunk=8)


def moved(problem: Problem, by: float) -> None:
    with torch.no_grad():
        for p in problem.parameters:
            p.add_(by)


def test_the_first_use_is_reinforce_whatever_the_clip_even_in_single_precision() -> None:
    reinforce = gradient(make("reinforce"))
    for clip in (0.0, 1e-9, 1e-4, 10.0):
        assert torch.allclose(gradient(ddpo(clip)), reinforce, rtol=1e-9)


def test_rsm_walks_on_by_what_it_differentiates() -> None:
    """One evaluation forward for each step, whether it is looked at or not, and none after the last that is."""
    every = make("rsm", draws=STEPS)(toy_problem(), toy_batch(8, 0)).cost
    assert (every.forward, every.backward) == (8 * STEPS, 8 * STEPS)
    few = make("rsm", draws=2)(toy_problem(), toy_batch(8, 0)).cost
    assert few.backward == 8 * 2 and 8 * (STEPS // 2 + 1) <= few.forward < 8 * STEPS


def test_a_second_look_costs_no_step_twice() -> None:
    """The chain goes on by what was differentiated: up to the last start, and 2 evaluations backward for each."""
    settings = {"sub_chain_length": 1, "starts_from": 0.0, "starts_until": 1.0, "unit": False}
    once, often = (
        make("lookahead", looks=k, **settings)(toy_problem(), toy_batch(8, 0)).cost for k in (1, STEPS)
    )
    assert once.backward == 8 and often.backward == 8 * STEPS
    assert often.forward == 8 * STEPS > once.forward


def test_looks_at_every_step_are_the_mean_of_single_looks() -> None:
    """One walk through the chain finds what a walk to each of its steps does."""
    settings = {"sub_chain_length": 1, "starts_from": 0.0, "starts_until": 1.0, "unit": False, "chunk": 8}
    whole = gradient(make("lookahead", looks=STEPS, **settings))
    single = [
        gradient(make("lookahead", **{**settings, "starts_from": k / STEPS, "starts_until": (k + 1) / STEPS}))
        for k in range(STEPS)
    ]
    assert torch.allclose(whole, torch.stack(single).mean(0), rtol=1e-9, atol=1e-12)


def test_more_looks_than_fit() -> None:
    fitting = {"sub_chain_length": 2, "starts_from": 0.0, "starts_until": 1.0}
    assert "estimator.looks of at most 1" in refusal(make("lookahead", looks=2, **fitting), toy_problem())


def test_rsm_at_more_steps_than_there_are() -> None:
    assert "estimator.draws from 1" in refusal(make("rsm", draws=STEPS + 1), toy_problem())


def test_a_second_use_weighs_by_importance_and_generates_nothing() -> None:
    """Against D·Σ_i ∂θ ρ_i·A computed from the densities."""
    problem, estimator, batch = toy_problem(), ddpo(1e9), toy_batch(8, 0)
    first = estimator(problem, batch)
    assert first.cost.forward == 2 * 8 * STEPS
    chain, samples = problem.chain(batch), torch.arange(8)
    path, means = [batch.noise.initial()], []
    with torch.no_grad():
        for i in range(STEPS):
            step = torch.full((8,), i)
            mean, scale = chain.move(path[-1], step, samples)
            means.append(mean)
            path.append(mean + scale[:, None] * batch.noise.at(step, samples))
    moved(problem, 0.02)
    advantage = first.rewards - LeaveOneOut()(first.rewards, batch.prompts, samples)
    objective = torch.zeros((), dtype=torch.float64)
    for i in range(STEPS):
        mean, scale = chain.move(path[i], torch.full((8,), i), samples)
        new = torch.distributions.Normal(mean, scale[:, None]).log_prob(path[i + 1]).mean(1)
        old = torch.distributions.Normal(means[i], scale[:, None]).log_prob(path[i + 1]).mean(1)
        objective = objective + mean.shape[1] * ((new - old).exp() * advantage).mean()
    second = estimator(problem, batch)
    assert second.cost.forward == 8 * STEPS and second.cost.backward == 8 * STEPS
    assert torch.equal(second.rewards, first.rewards)
    assert torch.allclose(second.gradient, problem.gradient(objective), rtol=1e-9, atol=1e-12)
    third = estimator(problem, batch)
    assert third.cost.forward == 2 * 8 * STEPS, "after two uses the batch is generated anew"
    assert not torch.equal(third.rewards, first.rewards)


def test_normalised_advantages_have_unit_deviation_whatever_the_prompts_are_worth() -> None:
    """The spread between prompts, which the baseline has taken away, is not counted."""
    problem, batch = toy_problem(), toy_batch(8, 0)
    plain = ddpo(1e-4)(problem, batch)
    normalised = ClippedPolicyGradient(1e-4, LeaveOneOut(), normalise=True, chunk=8)(problem, batch)
    deviation = (plain.rewards - LeaveOneOut()(plain.rewards, batch.prompts, torch.arange(8))).std()
    assert abs(deviation / plain.rewards.std() - 1) > 0.05
    assert torch.allclose(normalised.gradient * deviation, plain.gradient, rtol=1e-4)


def test_ratios_beyond_the_clip_count_only_where_they_undo_themselves() -> None:
    """PPO: a sample whose ratio has left the interval in the direction its advantage favours has no slope."""
    problem, estimator, batch = toy_problem(), ddpo(0.05), toy_batch(8, 0)
    estimator(problem, batch)
    samples, step = torch.arange(8), torch.full((8,), 1)
    assert estimator._latents is not None
    x, reached = estimator._latents[1], estimator._latents[2]
    moved(problem, 0.1)
    mean, scale = problem.chain(batch).move(x, step, samples)
    log_ratio = estimator._log_ratio(reached, mean, scale, batch.noise.at(step, samples))
    ratio = log_ratio.exp()
    for sign in (1.0, -1.0):
        clipped = estimator._clipped(log_ratio) * sign
        objective = torch.minimum(ratio * sign, clipped)
        (slope,) = torch.autograd.grad(objective.sum(), log_ratio, retain_graph=True)
        favoured = ratio > 1.05 if sign > 0 else ratio < 0.95
        assert favoured.any() and not favoured.all()
        assert (slope[favoured] == 0).all()
        assert torch.allclose(slope[~favoured], sign * ratio[~favoured].detach())


def test_ddpo_resumes_in_the_middle_of_a_reused_batch() -> None:
    problem, straight, batch = toy_problem(), ddpo(0.2, reuse=3), toy_batch(8, 0)
    straight(problem, batch)
    state = saved_and_loaded(straight.state_dict())
    moved(problem, 0.05)
    resumed = ddpo(0.2, reuse=3)
    resumed.load_state_dict(state)
    for _ in range(3):
        a, b = straight(problem, batch), resumed(problem, batch)
        assert torch.equal(a.gradient, b.gradient) and a.cost == b.cost
        moved(problem, 0.05)


def test_a_rollout_that_is_not_reused_is_not_kept() -> None:
    estimator = ddpo(0.2, reuse=1)
    gradient(estimator)
    assert "latents" not in estimator.state_dict()


# Baselines


def brute_force(rewards: Tensor, prompts: list[str], blocks: Tensor) -> list[float]:
    values = []
    for j in range(len(prompts)):
        others = [k for k in range(len(prompts)) if blocks[k] != blocks[j]]
        same = [k for k in others if prompts[k] == prompts[j]] or others
        values.append(float(rewards[same].mean()) if same else 0.0)
    return values


@pytest.mark.parametrize(
    "blocks", [[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2], [0] * 6], ids=str
)
@pytest.mark.parametrize("prompts", ["aabbbc", "abcdef", "aaaaaa", "abcabc"])
def test_leave_one_out_is_the_mean_of_the_others_of_a_prompt(prompts: str, blocks: list[int]) -> None:
    rewards = torch.randn(6, dtype=torch.float64)
    block = torch.tensor(blocks)
    baseline = LeaveOneOut()(rewards, list(prompts), block)
    assert baseline.tolist() == pytest.approx(brute_force(rewards, list(prompts), block), abs=1e-12)


def test_a_running_mean_knows_earlier_batches_only() -> None:
    baseline, alone = RunningMean(decay=0.5), torch.arange(3)
    rewards = torch.tensor([1.0, 3.0, 8.0])
    assert baseline(rewards, ["a", "a", "b"], alone).tolist() == [0, 0, 0]
    baseline.observe(rewards, ["a", "a", "b"])
    assert baseline(rewards, ["a", "b", "new"], alone).tolist() == [2, 8, 4]
    baseline.observe(torch.tensor([4.0]), ["a"])
    assert baseline(rewards, ["a", "b", "new"], alone).tolist() == [3, 8, 4]
    assert NoBaseline()(rewards, ["a", "b", "c"], alone).tolist() == [0, 0, 0]


def test_a_baseline_of_a_shared_perturbation_leaves_out_all_that_share_it() -> None:
    """Half order: the sample alone. Zeroth order: its whole chunk, whose rewards follow the same e."""
    seen = []

    class Noted(LeaveOneOut):
        def __call__(self, rewards: Tensor, prompts: Sequence[str], blocks: Tensor) -> Tensor:
            seen.append(blocks.tolist())
            return super().__call__(rewards, prompts, blocks)

    estimator = make("published", chunk=4)
    assert isinstance(estimator, RecursiveLikelihoodRatio)
    estimator.baseline = Noted()
    gradient(estimator)
    assert seen == [list(range(8)), [0] * 4 + [1] * 4]


# Small pieces


@pytest.mark.parametrize(("steps", "length"), [(16, 4), (5, 2), (7, 3), (3, 3), (4, 1), (9, 8)])
def test_a_partition_covers_every_step_once(steps: int, length: int) -> None:
    parts = partition(range(steps), length)
    assert [step for start, stop in parts for step in range(start, stop)] == list(range(steps))
    assert all(stop - start == length for start, stop in parts[1:])
    assert 1 <= parts[0][1] - parts[0][0] <= length


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_coverage_says_which_estimators_are_unbiased(name: str) -> None:
    covered = make(name).coverage(problem_of(name))
    unbiased = torch.allclose(covered, torch.ones(STEPS))
    assert unbiased == (name not in BIASED)
    if name == "alignprop":
        assert covered.tolist() == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_an_estimate_adds_up_and_tells_its_errors() -> None:
    estimate = make("published")(toy_problem(), toy_batch(8, 0))
    assert set(estimate.parts) == {"first order", "half order", "zeroth order"}
    parts = list(estimate.parts.values())
    assert torch.allclose(estimate.gradient, parts[0].gradient + parts[1].gradient + parts[2].gradient)
    assert estimate.norm == pytest.approx(float(estimate.gradient.norm()))
    assert estimate.standard_error == pytest.approx(math.hypot(*(part.standard_error for part in parts)))
    assert estimate.finite
    bad = Estimate({"x": Part(torch.tensor([math.inf]), 0.0)}, estimate.rewards, estimate.cost)
    assert not bad.finite


def test_the_standard_error_of_a_mean() -> None:
    vectors = torch.randn(6, 4, dtype=torch.float64)
    mean = GradientMean()
    mean.add(vectors[0])
    assert math.isnan(mean.part(Alone()).standard_error)
    for vector in vectors[1:]:
        mean.add(vector)
    part = mean.part(Alone())
    assert torch.allclose(part.gradient, vectors.mean(0))
    assert part.standard_error == pytest.approx(float((vectors.var(0) / 6).sum().sqrt()))
    assert part.norm == pytest.approx(float(vectors.mean(0).norm()))


def test_an_antithetic_pair_of_a_linear_reward_is_exact_in_its_own_direction() -> None:
    """For R = ⟨c, x_T⟩ and one sub-chain of the whole chain, the term is ⟨c, z⟩·∂⟨z, M⟩: no 1/s is left."""

    class Linear(QuadraticReward):
        def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return images[:, 0] * 2

    problem = replace(toy_problem(), reward=Linear())
    batch, samples = toy_batch(4, 0), torch.arange(4)
    estimator = RecursiveLikelihoodRatio(
        None, HalfOrder(OneSubChain(STEPS), Antithetic()), None, NoBaseline(), 4
    )
    chain, x, last = problem.chain(batch), batch.noise.initial(), torch.full((4,), STEPS - 1)
    for i in range(STEPS - 1):
        step = torch.full((4,), i)
        mean, scale = chain.move(x, step, samples)
        x = mean + scale[:, None] * batch.noise.at(step, samples)
    mean, _ = chain.move(x, last, samples)
    z = batch.noise.at(last, samples)
    expected = problem.gradient((z[:, 0] * (z * mean).sum(1)).mean())
    assert torch.allclose(estimator(problem, batch).gradient, expected, rtol=1e-10)
