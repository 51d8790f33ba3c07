"""Every part of every estimator against its own exact target, on a linear-Gaussian chain (see `toy.py`).

The mean of independent replicates is compared with the target along each parameter axis and along the target
itself. All comparisons of this module together fail by chance with probability `FALSE_FAILURE` (Student's t,
Bonferroni). The seeds are fixed, so that the chance is taken once. Power: an estimator whose scale is 5% off
fails the same comparison, with a probability above 99.9% (its 5% are at least 3.1 standard errors beyond the
limit, which is asserted).

Where a parameter perturbation e is shared by a chunk, almost all of the spread is that of e. It is taken out
with the exact conditional expectation given e as a control variate, whose mean is the target by Gauss-Hermite
quadrature. The mean that is tested stays that of the estimator.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from checks import Comparison, compare
from torch import Tensor
from toy import (
    IDENTITY,
    STEPS,
    THETA,
    Moments,
    both_sides,
    closed_form,
    gauss_hermite,
    step_gradients,
    toy_batch,
    toy_problem,
    walk,
)

from rlr_core.config import EstimatorConfig
from rlr_core.estimators import (
    ESTIMATORS,
    Estimate,
    Estimator,
    OneSubChain,
    RandomStart,
    RecursiveLikelihoodRatio,
    ZerothOrder,
    build,
)
from rlr_core.estimators.problem import flatten
from rlr_core.estimators.sub_chains import SubChainPolicy, partition
from rlr_core.estimators.zeroth_order import direction

T = STEPS
SIGMA = 0.4
FALSE_FAILURE = 1e-6
FIRST, HALF, ZEROTH, POLICY = "first order", "half order", "zeroth order", "policy gradient"
LOOKAHEAD = "lookahead"
SUM = "sum"


@dataclass(frozen=True, eq=False)
class Coverage:
    """A way to deal out the steps: (T,) which are perturbed, and how often each part covers each."""

    perturbed: Tensor
    covers: dict[str, Tensor]


def between(start: int, stop: int) -> Tensor:
    return torch.tensor([float(start <= i < stop) for i in range(T)], dtype=torch.float64)


def tail_and_rest(tail: int, rest: str) -> list[Coverage]:
    """First order on the last `tail` steps, the part `rest` on all others."""
    covers = {FIRST: between(T - tail, T)} if tail else {}
    perturbed = between(0, T - tail) * (rest == ZEROTH)
    return [Coverage(perturbed, covers | ({rest: between(0, T - tail)} if rest else {}))]


def random_start(length: int, zeroth: bool) -> list[Coverage]:
    """The paper's eq. 11: all starts of the sub-chain are as likely."""
    coverages = []
    for start in range(T - 1 - length + 1):
        half = between(start, start + length)
        rest = between(0, T - 1) - half
        covers = {FIRST: between(T - 1, T), HALF: half} | ({ZEROTH: rest} if zeroth else {})
        coverages.append(Coverage(rest * zeroth, covers))
    return coverages


def any_tail() -> list[Coverage]:
    """AlignProp: K = 1 … T, all as likely."""
    return [Coverage(torch.zeros(T), {FIRST: between(T - K, T)}) for K in range(1, T + 1)]


@dataclass(frozen=True, eq=False)
class Case:
    """An estimator, how its parts cover the steps, its samples, and whether its sum is the full gradient.

    A control variate's two parts have a joint expectation only: they are taken together as the half-order part.
    """

    name: str
    settings: dict[str, Any]
    coverages: list[Coverage]
    unbiased: bool = True
    size: int = 2048
    replicates: int = 128
    learned: dict[str, float] = field(default_factory=dict)
    coefficients: dict[str, list[float]] = field(default_factory=dict)

    @property
    def parts(self) -> list[str]:
        return list(self.coverages[0].covers)

    def __str__(self) -> str:
        told = [str(value) for value in self.settings.values()] + ["skewed"] * bool(self.learned)
        return "-".join([self.name, *told, *[f"c={p / s}" for p, s in self.coefficients.values()]])


def rlr(
    size: int,
    learned: dict[str, float] | None = None,
    tail: int = 1,
    length: int = 2,
    coefficients: dict[str, list[float]] | None = None,
    **settings: Any,
) -> Case:
    settings = {"first_order_steps": tail, "sub_chain_length": length, **settings}
    coverages, fixed = tail_and_rest(tail, HALF), coefficients or {}
    return Case("rlr", settings, coverages, size=size, learned=learned or {}, coefficients=fixed)


SHORT, WHOLE, PLAIN = {"sub_chain_length": 2}, {"sub_chain_length": T}, {"sub_chain_end": "plain"}
SINGLE = {"sub_chain_length": 1}
SKEWED = {"0": 1e-4, "1": 1.0}
HALVED, WHOLLY = ({str(j): [c, 1.0] for j in range(2)} for c in (0.5, 1.0))
CASES = [
    rlr(2048),
    rlr(2048, sub_chains="learned"),
    rlr(2048, sub_chains="learned", learned=SKEWED),
    rlr(2048, tail=2, length=1, rerun=True),
    rlr(2048, tail=0, sub_chains="learned"),
    rlr(7168, sub_chain_end="plain"),
    rlr(7168, sub_chains="learned", sub_chain_end="plain", baseline="running_mean"),
    rlr(7168, sub_chain_end="plain", baseline="none"),
    rlr(2048, sub_chains="all"),
    rlr(2048, branches=2),
    rlr(7168, sub_chain_end="lookahead_baseline"),
    rlr(2048, sub_chains="learned", sub_chain_end="control_variate"),
    rlr(2048, sub_chains="learned", sub_chain_end="control_variate", branches=2),
    rlr(2048, sub_chain_end="control_variate", coefficients=HALVED),
    rlr(2048, sub_chain_end="control_variate", coefficients=WHOLLY),
    Case("published", {**SINGLE, "baseline": "leave_one_out"}, random_start(1, True), size=10752),
    Case("published", {**SHORT, "sigma": 0.5, "baseline": "running_mean"}, random_start(2, True), size=8192),
    Case("published", {"sub_chain_length": 1, "baseline": "none"}, random_start(1, True), size=8192),
    Case("v1", {}, tail_and_rest(1, ""), unbiased=False, size=512),
    Case("v2", SHORT, random_start(2, False), unbiased=False, size=6144),
    Case("v3", {"baseline": "leave_one_out"}, tail_and_rest(1, ZEROTH), size=6656),
    Case("v3", {"baseline": "running_mean"}, tail_and_rest(1, ZEROTH), size=4096),
    Case("half", SHORT, tail_and_rest(0, HALF), size=1024),
    Case("half", {**SHORT, **PLAIN}, tail_and_rest(0, HALF), size=5120),
    Case("half", {**WHOLE, **PLAIN, "baseline": "running_mean"}, tail_and_rest(0, HALF), size=4096),
    Case("zeroth", {"sigma": 0.3, "antithetic": True}, tail_and_rest(0, ZEROTH)),
    Case("zeroth", {"sigma": 0.3, "antithetic": False}, tail_and_rest(0, ZEROTH), size=4096),
    Case("zeroth", {"sigma": 0.3, "antithetic": False, "baseline": "none"}, tail_and_rest(0, ZEROTH), size=4096),
    Case("reinforce", {}, tail_and_rest(0, HALF), size=3072),
    Case("reinforce", {"baseline": "running_mean"}, tail_and_rest(0, HALF), size=2048),
    Case("ddpo", {}, tail_and_rest(0, POLICY), size=3072),
    Case("ddpo", {"baseline": "running_mean"}, tail_and_rest(0, POLICY), size=2048),
    Case("draft", {"first_order_steps": 2}, tail_and_rest(2, ""), unbiased=False, size=512),
    Case("draft", {"first_order_steps": 3, "rerun": True}, tail_and_rest(3, ""), unbiased=False, size=512),
    Case("alignprop", {}, any_tail(), unbiased=False, size=512),
    Case("full_bp", {}, tail_and_rest(T, ""), size=512),
]  # fmt: skip
PARTS = [(case, part) for case in CASES for part in [*case.parts, SUM]]
RATE = FALSE_FAILURE / (7 * len(PARTS))
"""Of one of the 7 directions of one comparison: 6 parameters and the target itself."""


@dataclass(frozen=True)
class Recorded(ZerothOrder):
    """Zeroth order that notes the perturbations e it is asked to weigh."""

    directions: list[Tensor] = field(default_factory=list)

    def gradient(self, parameters: list[Tensor], seed: int, advantages: Tensor) -> Tensor:
        self.directions.append(flatten(direction(parameters, seed)))
        return super().gradient(parameters, seed, advantages)


@dataclass(frozen=True)
class Exact:
    """Expectations given the perturbation e (N, 6), for each part (N, 6), averaged over the coverages."""

    J: Tensor
    parts: dict[str, Tensor]


def given(e: Tensor, coverages: list[Coverage], sigma: float) -> Exact:
    """Σ g_i over the steps that each part covers, with θ + ς·e at the perturbed steps."""
    values = [step_gradients(e, coverage.perturbed, sigma) for coverage in coverages]
    parts = {}
    for name in coverages[0].covers:
        sums = [
            coverage.covers[name] @ g.flatten(1) for coverage, (_, g) in zip(coverages, values, strict=True)
        ]
        parts[name] = torch.stack(sums).mean(0).view_as(e)
    return Exact(torch.stack([J for J, _ in values]).mean(0), parts)


def exact_targets(coverages: list[Coverage], sigma: float) -> dict[str, Tensor]:
    """The parts' targets and their sum, of the smoothed objective where steps are perturbed, by quadrature.

    J is of degree 2 in the parameters of each step; 4 nodes are exact for the gradient's degree of 7.
    """
    smoothed = any(coverage.perturbed.any() for coverage in coverages)
    points, weights = gauss_hermite(4 if smoothed else 1, 6)
    targets = {name: weights @ values for name, values in given(points, coverages, sigma).parts.items()}
    return targets | {SUM: torch.stack(list(targets.values())).sum(0)}


def full_gradient() -> Tensor:
    """∇J, not smoothed."""
    return step_gradients(torch.zeros(1, 6, dtype=torch.float64), torch.zeros(T), 0.0)[1].sum((0, 1))


@dataclass
class Replicates:
    """Independent estimates of each part (R, 6) and the control variates (R, 6), whose mean is 0."""

    estimates: dict[str, Tensor]
    controls: dict[str, Tensor]
    targets: dict[str, Tensor]

    def against(self, target: Tensor, part: str, scale: float = 1.0) -> Comparison:
        """The comparison for an estimator whose estimates are `scale` times these."""
        return compare(controlled(scale * self.estimates[part], self.controls[part], target), target, RATE)


def controlled(estimates: Tensor, controls: Tensor, target: Tensor) -> Tensor:
    """Estimates (R, 6) less a multiple of their controls, fitted for each half to the other: no bias."""
    adjusted = torch.empty_like(estimates)
    for mine, other in ((0, 1), (1, 0)):
        deviation, control = estimates[other::2] - target, controls[other::2]
        squares = control.square().sum(1, keepdim=True)
        weight = 1 / (squares + squares.median() + 1e-300)  # a far perturbation is a noisy one
        coefficient = (weight * deviation * control).sum() / (weight * squares).sum().clamp(min=1e-300)
        adjusted[mine::2] = estimates[mine::2] - coefficient * controls[mine::2]
    return adjusted


@dataclass(frozen=True)
class Shared:
    """What is shared: a chunk's perturbation (2, 6), the baseline before the batch, AlignProp's K."""

    directions: Tensor
    beta: float
    tail: int


@functools.cache
def replicates(number: int) -> Replicates:
    """Estimates of case `number` from as many batches as it asks for, in two chunks each."""
    case = CASES[number]
    config = EstimatorConfig(name=case.name, **{"sigma": SIGMA, "chunk": case.size // 2, **case.settings})
    estimator, targets = build(config, T), exact_targets(case.coverages, config.sigma)
    estimator.check(toy_problem(), case.size)
    drawn = [one(case, config, estimator, seed) for seed in range(case.replicates)]
    estimates = {name: torch.stack([part(d, name) for d, _ in drawn]) for name in case.parts}
    estimates[SUM] = torch.stack([d.gradient for d, _ in drawn])
    expected = conditional(case, config, [shared for _, shared in drawn])
    zeros = torch.zeros(case.replicates, 6, dtype=torch.float64)
    controls = {name: expected[name] - targets[name] if name in expected else zeros for name in case.parts}
    controls[SUM] = torch.stack(list(controls.values())).sum(0)
    return Replicates(estimates, controls, targets)


def part(estimate: Estimate, name: str) -> Tensor:
    """The gradient of a part (P,); half order with its control variate."""
    gradient = estimate.parts[name].gradient
    return (
        gradient + estimate.parts[LOOKAHEAD].gradient
        if name == HALF and LOOKAHEAD in estimate.parts
        else gradient
    )


def one(case: Case, config: EstimatorConfig, estimator: Estimator, seed: int) -> tuple[Estimate, Shared]:
    """One estimate, and what its chunks shared."""
    batch, beta, directions = toy_batch(case.size, seed), 0.0, []
    if isinstance(estimator, RecursiveLikelihoodRatio):
        if estimator.zeroth:
            estimator.zeroth = Recorded(config.sigma, estimator.zeroth.antithetic, directions)
        if estimator.half and case.learned:
            estimator.half.sub_chains.load_state_dict(case.learned)
        if estimator.half and case.coefficients:
            estimator.half.end.load_state_dict(case.coefficients)
        if config.baseline == "running_mean":
            zeros = torch.zeros(case.size, dtype=torch.float64)
            beta = float(estimator.baseline(zeros, batch.prompts, torch.zeros(0)).mean())
    estimate = estimator(toy_problem(), batch)
    e = torch.stack(directions) if directions else torch.zeros(0, 6)
    return estimate, Shared(e, beta, estimate.cost.backward // case.size)


def conditional(case: Case, config: EstimatorConfig, shared: list[Shared]) -> dict[str, Tensor]:
    """Expectations of the parts (R, 6), given what was shared in each batch."""
    if case.name == "alignprop":
        of_tail = [
            given(torch.zeros(1, 6, dtype=torch.float64), [coverage], 0.0).parts[FIRST][0]
            for coverage in case.coverages
        ]
        return {FIRST: torch.stack([of_tail[batch.tail - 1] for batch in shared])}
    e = torch.cat([batch.directions for batch in shared])
    if not len(e):
        return {}
    exact = given(e, case.coverages, config.sigma)
    if config.name == "zeroth" and config.antithetic:
        advantage = (exact.J - given(-e, case.coverages, config.sigma).J) / 2
    elif config.baseline == "leave_one_out":
        advantage = exact.J - exact.J.view(-1, 2).flip(1).flatten()
    else:
        advantage = exact.J - torch.tensor([batch.beta for batch in shared]).repeat_interleave(2)
    exact.parts[ZEROTH] = advantage[:, None] / config.sigma * e
    return {name: values.view(-1, 2, 6).mean(1) for name, values in exact.parts.items()}


@pytest.mark.parametrize(
    ("case", "part"), [pytest.param(c, p, id=f"{c}-{p}".replace(" ", "_")) for c, p in PARTS]
)
def test_each_part_has_its_exact_expectation(case: Case, part: str) -> None:
    drawn = replicates(CASES.index(case))
    target = drawn.targets[part]
    right, wrong = (drawn.against(target, part, scale) for scale in (1.0, 1.05))
    assert not right.differs, f"{part} of {case}: {right}"
    assert wrong.margin > wrong.limit + 3.1, f"too few samples to see 5%: {wrong}"
    assert wrong.differs, f"an estimator that is 5% too long passes: {wrong}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_sum_is_the_full_gradient_or_is_shown_biased(case: Case) -> None:
    """The targets add up to ∇J, or to that of the smoothed objective. Biased estimates are told from ∇J."""
    sigma = case.settings.get("sigma", SIGMA)
    target, full = exact_targets(case.coverages, sigma)[SUM], full_gradient()
    if any(coverage.perturbed.any() for coverage in case.coverages):
        full = smoothed_gradient(case.coverages, sigma)
    assert torch.allclose(target, full, rtol=0, atol=1e-12) == case.unbiased
    if not case.unbiased:
        compared = replicates(CASES.index(case)).against(full, SUM)
        assert compared.scores.abs().max() > 10 * compared.limit


def smoothed_gradient(coverages: list[Coverage], sigma: float) -> Tensor:
    """∂θ of the mean over coverages and e of J(θ + ς·e at the perturbed steps, θ at the others)."""
    points, weights = gauss_hermite(4, 6)
    theta, J = THETA.clone().requires_grad_(), torch.zeros(())
    for coverage in coverages:
        J = J + weights @ closed_form(theta + sigma * points * coverage.perturbed[:, None, None]) / len(
            coverages
        )
    return torch.autograd.grad(J, theta)[0]


def test_the_zeroth_order_target_by_another_way() -> None:
    """Stein: E[g(θ + ς·e)] = E[J(θ + ς·e)·e]/ς; the control variates have the targets as their mean."""
    coverages = tail_and_rest(1, ZEROTH)
    points, weights = gauss_hermite(5, 6)
    exact = given(points, coverages, SIGMA)
    by_stein = weights @ (exact.J[:, None] * points) / SIGMA
    assert torch.allclose(weights @ exact.parts[ZEROTH], by_stein, atol=1e-12)
    assert torch.allclose(exact_targets(coverages, SIGMA)[ZEROTH], weights @ exact.parts[ZEROTH], atol=1e-12)
    bias = exact_targets(coverages, SIGMA)[SUM] - full_gradient()
    assert bias.norm() > 0.05 * full_gradient().norm(), "smoothing would not be told from none"


def test_flow_bp_of_every_step_with_a_whole_bridge_is_back_propagation() -> None:
    settings = {"first_order_steps": T, "bridge": 1.0, **ANYWHERE}
    whole, exact = (
        build(EstimatorConfig(name=n, chunk=2, **s), T) for n, s in (("flow_bp", settings), ("full_bp", {}))
    )
    problem, batch = toy_problem(), toy_batch(8, 0)
    torch.testing.assert_close(whole(problem, batch).gradient, exact(problem, batch).gradient)
    torch.testing.assert_close(surrogate_target([[0, 1, 2, 3]], 1.0), full_gradient())
    assert whole(problem, batch).cost == exact(problem, batch).cost and whole.coverage(problem).eq(1).all()


def test_every_named_estimator_is_tested() -> None:
    no_expectation = {
        "nft",
        "learned_critic",
        "auto",
    }  # of this gradient or a part of it: their own tests say what they are
    assert {case.name for case in CASES} | {name.strip() for name in BIASED} | no_expectation == set(
        ESTIMATORS
    )


def theta_of_steps(count: int) -> Tensor:
    """θ for each of the first `count` steps, leaves of their own: (count, 1, 6)."""
    return THETA.expand(count, 1, 6).clone().requires_grad_()


def refl_target() -> Tensor:
    """The mean over t of ∂θ E[R(x̂_θ(x_t))], x_t fixed, for t among the last 3 steps."""
    gradients = []
    for t in range(T - 3, T):
        theta = THETA[None].clone().requires_grad_()
        chain = theta_of_steps(t).detach()
        value = both_sides(lambda state, n=chain, p=theta: walk(state, n, steps=T).predicted(p).reward(), 1)
        gradients.append(torch.autograd.grad(value.sum(), theta)[0][0])
    return torch.stack(gradients).mean(0)


def draft_lv_target() -> Tensor:
    """The mean of ∂θ E[R] through the last step at x_{T-1}, and at x_T noised to its level."""
    theta, chain = THETA[None].clone().requires_grad_(), theta_of_steps(T).detach()

    def value(state: Moments) -> Tensor:
        first = walk(state, chain[:-1], steps=T)
        again = walk(state, chain, steps=T).noised(T - 1, steps=T)
        return sum(s.step(theta, T - 1, steps=T).reward() for s in (first, again)) / 2

    return torch.autograd.grad(both_sides(value, 1).sum(), theta)[0][0]


def critic_target() -> Tensor:
    """Σ over sub-chains of ∂θ E[V(x_stop)] through the steps of the sub-chain alone, and first order on the last step."""
    total = step_gradients(torch.zeros(1, 6, dtype=torch.float64), torch.zeros(T), 0.0)[1][T - 1, 0]
    for start, stop in partition(range(T - 1), 2):
        theta = theta_of_steps(stop)
        value = both_sides(lambda s, n=theta: walk(s, n, steps=T).predicted(THETA[None]).reward(), 1)
        total = total + torch.autograd.grad(value.sum(), theta)[0][start:stop].sum((0, 1))
    return total


def lookahead_target(length: int, low: int = 0, high: int = T) -> Tensor:
    """The mean over a in low … high-1 of ∂θ E[R(x̂_θ(x_{a+h-1}))] through the h-1 steps before it and the prediction."""
    gradients = []
    for a in range(low, min(high, T - length + 1)):
        theta, own = theta_of_steps(a + length - 1), THETA[None].clone().requires_grad_()
        value = both_sides(lambda s, n=theta, p=own: walk(s, n, steps=T).predicted(p).reward(), 1).sum()
        of_prediction = torch.autograd.grad(value, own, retain_graph=True)[0][0]
        of_steps = torch.autograd.grad(value, theta)[0][a:].sum((0, 1)) if length > 1 else 0
        gradients.append(of_prediction + of_steps)
    return torch.stack(gradients).mean(0)


def matching_target() -> Tensor:
    """The mean over all steps of w·∂θ E[R(x̂_θ(x_i))], w = α²/(α² + σ²)."""
    schedule = toy_problem().schedule
    signal, noise = (scale[:T].square() for scale in (schedule.alpha, schedule.sigma))
    weights = signal / (signal + noise)
    assert weights.max() > 2 * weights.min(), "weighing would not be told from none"
    return torch.stack([w * lookahead_target(1, i, i + 1) for i, w in enumerate(weights)]).mean(0)


def surrogate_target(chosen: list[list[int]], bridge: float) -> Tensor:
    """Mean over the choices of Σ w·∂θ E[R(x_T + P_i·(m_θ(x_i) − m_i))], P_i = Π (I + b·(M_k − I)) over the chosen k > i."""
    return torch.stack([one_surrogate(steps, bridge) for steps in chosen]).mean(0)


def one_surrogate(steps: list[int], bridge: float) -> Tensor:
    theta = THETA[None].clone().requires_grad_()
    passed, total = IDENTITY[None], torch.zeros(1, dtype=torch.float64)
    for i in sorted(steps, reverse=True):
        total = total + both_sides(lambda start, i=i, p=passed: carried(start, theta, i, p), 1)
        passed = passed @ (IDENTITY + bridge * (mean_step(theta.detach(), i, 0)[0] - IDENTITY))
    return torch.autograd.grad(total.sum(), theta)[0][0] * T / len(steps)


def carried(start: Moments, theta: Tensor, i: int, passed: Tensor) -> Tensor:
    """E[R] (1,) of x_T, moved by what θ changes of the mean of step i and `passed` (1, 2, 2) makes of that."""
    own = theta.detach()
    before = walk(start, theta_of_steps(i).detach(), steps=T)
    onward, shift = IDENTITY[None], torch.zeros(1, 2, dtype=torch.float64)
    for k in range(i, T):
        matrix, constant = mean_step(own, k, start.side)
        onward, shift = matrix @ onward, (matrix @ shift[..., None])[..., 0] + constant
    now, was = mean_step(theta, i, start.side), mean_step(own, i, start.side)
    matrix = onward + passed @ (now[0] - was[0])
    moved = before.affine(
        matrix, shift + (passed @ (now[1] - was[1])[..., None])[..., 0], torch.zeros((), dtype=torch.float64)
    )
    after = (
        walk(start, theta_of_steps(T).detach(), steps=T).cov - onward @ before.cov @ onward.mT
    )  # of the later noise
    return replace(moved, cov=moved.cov + after).reward()


def mean_step(theta: Tensor, i: int, side: int) -> tuple[Tensor, Tensor]:
    """M (1, 2, 2) and c (1, 2) of m_i = M·x + c."""
    at = [
        Moments(x[None], 0 * IDENTITY[None], side).step(theta, i, steps=T).mean
        for x in (0 * IDENTITY[0], *IDENTITY)
    ]
    return torch.stack([at[1] - at[0], at[2] - at[0]], -1), at[0]


ANYWHERE = {"starts_from": 0.0, "starts_until": 1.0, "unit": False}
BIASED = {
    "flow_bp": ({"first_order_steps": T, **ANYWHERE}, lambda: surrogate_target([[0, 1, 2, 3]], 0.0)),
    "flow_bp ": (
        {"first_order_steps": 2, "bridge": 0.6, **ANYWHERE, "chunk": 1024},
        lambda: surrogate_target([[0, 2], [1, 3]], 0.6),
    ),
    "flow_bp  ": (
        {"first_order_steps": 1, **ANYWHERE, "chunk": 256},
        lambda: surrogate_target([[i] for i in range(T)], 0.0),
    ),
    "lookahead": ({**SINGLE, **ANYWHERE}, lambda: lookahead_target(1)),
    "lookahead ": ({**SHORT, **ANYWHERE}, lambda: lookahead_target(2)),
    "lookahead  ": (
        {**SINGLE, "starts_from": 0.25, "starts_until": 0.75, "unit": False},
        lambda: lookahead_target(1, 1, 3),
    ),
    "rsm": ({"draws": 2, "chunk": 256}, matching_target),
    "rsm ": ({"draws": T}, matching_target),
    "lookahead   ": ({**SINGLE, **ANYWHERE, "looks": 2}, lambda: lookahead_target(1)),
    "lookahead    ": ({**SINGLE, **ANYWHERE, "looks": T}, lambda: lookahead_target(1)),
    "refl": ({"first_order_steps": 3}, refl_target),
    "draft_lv": ({"draws": 2}, draft_lv_target),
    "rlr": ({**SHORT, "first_order_steps": 1, "sub_chain_end": "lookahead"}, critic_target),
}


WINDOW = range(1, 3)
"""The steps of the stages that are chosen."""


def limited_target(*, tail: int = 0) -> Tensor:
    """Σ over the steps of the window, and of the last `tail` ones, of the full gradient's part of the step."""
    parts = step_gradients(torch.zeros(1, 6, dtype=torch.float64), torch.zeros(T), 0.0)[1][:, 0]
    return sum(parts[step] for step in {*WINDOW, *range(T - tail, T)})


LIMITED = {
    "half": (SHORT, limited_target),
    "rlr": ({**SINGLE, "first_order_steps": 1}, lambda: limited_target(tail=1)),
    "lookahead": ({**SINGLE, "unit": False}, lambda: lookahead_target(1, WINDOW.start, WINDOW.stop)),
    "reinforce": ({}, limited_target),
}
BIASED_PROBLEMS = {name: (*case, None) for name, case in BIASED.items()} | {
    f"{name} of chosen stages": (*case, WINDOW) for name, case in LIMITED.items()
}


@pytest.mark.parametrize("name", BIASED_PROBLEMS)
def test_a_biased_estimate_has_its_own_exact_expectation_and_not_the_full_gradient(name: str) -> None:
    settings, exact, window = BIASED_PROBLEMS[name]
    size, batches = 4096, 128 if window else 64
    estimator = build(EstimatorConfig(name=name.split()[0], **{"chunk": size, **settings}), T)
    problem = replace(toy_problem(), window=window)
    estimator.check(problem, size)
    drawn = torch.stack([estimator(problem, toy_batch(size, seed)).gradient for seed in range(batches)])
    target, rate = exact(), FALSE_FAILURE / (7 * len(BIASED_PROBLEMS))
    right, wrong = (compare(scale * drawn, target, rate) for scale in (1.0, 1.05))
    assert not right.differs, right
    assert wrong.margin > wrong.limit + 3.1, f"too few samples to see 5%: {wrong}"
    assert wrong.differs, f"an estimator that is 5% too long passes: {wrong}"
    assert compare(drawn, full_gradient(), rate).scores.abs().max() > 5 * right.limit


@pytest.mark.parametrize("end", ["antithetic", "plain"])
def test_learned_probabilities_are_far_from_uniform_and_sum_to_one(end: str) -> None:
    """So that the exactness above is not that of the uniform draw."""
    policy = OneSubChain(1, learned=True)
    policy.load_state_dict({"0": 1e-4, "1": 1.0, "2": 4.0})
    p = policy.probabilities(torch.arange(3))
    assert p.sum() == pytest.approx(1)
    assert p.tolist() == pytest.approx([0.2 / 3 + 0.8 * share for share in (0.01 / 3.01, 1 / 3.01, 2 / 3.01)])
    config = EstimatorConfig(
        name="rlr", first_order_steps=0, chunk=1, sub_chains="learned", sub_chain_end=end
    )
    estimator = build(config, T)
    for seed in range(6):
        estimator(toy_problem(), toy_batch(32, seed))
    assert isinstance(estimator, RecursiveLikelihoodRatio) and estimator.half
    learned = estimator.half.sub_chains.probabilities(torch.arange(T))
    assert learned.max() > 1.5 * learned.min()


def test_learned_probabilities_approach_the_best_ones() -> None:
    """p_j ∝ sqrt(E|term_j|²), here 4 : 2 : 1 : 1, with a floor of 0.2 shared by all."""
    policy, second_moments = OneSubChain(1, learned=True, decay=0.9), torch.tensor([16.0, 4.0, 1.0, 1.0])
    generator = torch.Generator().manual_seed(0)
    for _ in range(250):
        (drawn,) = policy.draw(8, range(4), generator)
        for samples in torch.arange(8).split(2):
            mine = drawn.of(samples)
            scale = (second_moments[mine.start] / 50).sqrt()
            terms = torch.randn(2, 50, generator=generator) * scale[:, None]
            policy.observe(mine, float((mine.weight[:, None] * terms).mean(0).square().sum()))
        policy.settle()
    best = 0.05 + 0.8 * torch.tensor([4.0, 2.0, 1.0, 1.0]) / 8
    assert torch.allclose(policy.probabilities(torch.arange(4)).float(), best, rtol=0.15)


def test_importance_weights_cover_every_step_once_in_expectation() -> None:
    """Σ_j p_j·w_j·[step in sub-chain j] = 1, for learned probabilities and a partition with a remainder."""
    policy = OneSubChain(2, learned=True)
    policy.load_state_dict({"0": 9.0, "1": 0.01, "3": 1.0})
    (drawn,) = policy.draw(100_000, range(5), torch.Generator().manual_seed(0))
    steps = torch.arange(5)
    inside = (drawn.start[:, None] <= steps) & (steps < drawn.stop[:, None])
    mean = (inside * drawn.weight[:, None]).mean(0)
    # Stratified: each is drawn within 1 of its expected number of times, and no weight exceeds 3/0.2 = 15.
    assert torch.allclose(mean, torch.ones(5, dtype=mean.dtype), rtol=0, atol=2 * 15 / 100_000)


@pytest.mark.parametrize("policy", [OneSubChain(1), RandomStart(1)], ids=["one sub-chain", "random start"])
def test_stratified_draws_are_even_over_the_batch_and_uniform_for_a_sample(policy: SubChainPolicy) -> None:
    """Every batch of 8 draws each of 4 starts twice; every sample draws all starts alike (χ², P = 1e-7)."""
    generator, count = torch.Generator().manual_seed(0), 4000
    starts = torch.stack([policy.draw(8, range(4), generator)[0].start for _ in range(count)])
    assert all(((starts == start).sum(1) == 2).all() for start in range(4))
    seen = torch.stack([(starts == start).sum(0) for start in range(4)]).double()
    chi_square = ((seen - count / 4) ** 2 / (count / 4)).sum(0)
    assert chi_square.max() < 40.1  # 3 degrees of freedom, P = 1e-8 for each of 8 samples


def test_alignprop_draws_every_length_alike() -> None:
    estimator = build(EstimatorConfig(name="alignprop", chunk=2), T)
    lengths = [estimator(toy_problem(), toy_batch(4, seed)).cost.backward // 4 for seed in range(400)]
    counts = torch.tensor([lengths.count(K) for K in range(1, T + 1)]).double()
    assert counts.sum() == 400
    assert ((counts - 100) ** 2 / 100).sum() < 40.1


@pytest.mark.parametrize("case", [case for case in CASES if not case.coverages[0].perturbed.any()], ids=str)
def test_chunks_change_memory_but_not_the_estimate(case: Case) -> None:
    """No part but zeroth order (whose perturbation is that of a chunk) depends on the chunk size."""
    estimates = []
    for chunk in (1, 3, 12):
        estimator = build(EstimatorConfig(name=case.name, **{"chunk": chunk, **case.settings}), T)
        estimates.append(estimator(toy_problem(), toy_batch(12, 7)))
    for estimate in estimates[1:]:
        assert estimate.cost == estimates[0].cost
        for name, part in estimate.parts.items():
            assert torch.allclose(part.gradient, estimates[0].parts[name].gradient, rtol=1e-9, atol=1e-12)


def test_perturbations_of_chunks_and_batches_are_different_and_standard_normal() -> None:
    estimator = build(EstimatorConfig(name="zeroth", sigma=SIGMA, antithetic=True, chunk=2), T)
    assert isinstance(estimator, RecursiveLikelihoodRatio)
    directions: list[Tensor] = []
    estimator.zeroth = Recorded(SIGMA, True, directions)
    for seed in range(100):
        estimator(toy_problem(), toy_batch(8, seed))
    e = torch.stack(directions)
    assert len(e.unique(dim=0)) == 400
    assert e.mean(0).abs().max() < 6 / math.sqrt(400)
    assert (e.T @ e / 400 - torch.eye(6)).abs().max() < 6 * math.sqrt(2 / 400)


SPREAD = [
    ("v1", {}, False),
    ("half", SHORT, False),
    ("reinforce", {}, False),
    ("ddpo", {}, False),
    ("zeroth", {"antithetic": True}, False),
    ("v3", {}, False),
    ("rlr", {"first_order_steps": 1, **SHORT}, True),
    ("published", SHORT, True),
]


@pytest.mark.parametrize(("name", "settings", "stratified"), SPREAD, ids=[name for name, *_ in SPREAD])
def test_the_standard_error_is_the_spread_of_batches(
    name: str, settings: dict[str, Any], stratified: bool
) -> None:
    """E[SE²] = trace of the covariance of the estimate; with stratified draws it is an upper estimate.

    Over 250 batches of 4 chunks; z-limit 5.5 (P = 4e-8 each). Power: half of the variance is found out.
    """
    estimator = build(EstimatorConfig(name=name, sigma=0.1, chunk=4, **settings), T)
    estimates = [estimator(toy_problem(), toy_batch(16, seed)) for seed in range(250)]
    for part in estimates[0].parts:
        gradients = torch.stack([estimate.parts[part].gradient for estimate in estimates])
        errors = [estimate.parts[part].standard_error for estimate in estimates]
        squares = torch.tensor(errors, dtype=torch.float64).square()
        spread = (gradients - gradients.mean(0)).square().sum(1) * 250 / 249

        def score(values: Tensor) -> float:
            return float(values.mean() / values.std() * math.sqrt(250))

        assert score(squares - spread) > -5.5, part
        if not stratified:
            assert score(squares - spread) < 5.5, part
        assert score(squares / 2 - spread) < -5.5, f"no power for {part}"


def test_the_cost_is_counted_in_network_evaluations() -> None:
    """Per sample: forward 1, backward 2."""
    batch = 8

    def evaluations(name: str, **settings: Any) -> float:
        estimator = build(EstimatorConfig(name=name, chunk=2, sub_chain_length=2, **settings), T)
        return estimator(toy_problem(), toy_batch(batch, 0)).cost.evaluations / batch

    assert evaluations("v1") == T + 2
    assert evaluations("draft", first_order_steps=3) == T + 2 * 3
    assert evaluations("draft", first_order_steps=3, rerun=True) == T + 3 + 2 * 3
    assert evaluations("full_bp") == 4 * T
    assert evaluations("reinforce") == T + 3 * T
    assert evaluations("ddpo") == T + 3 * T
    assert evaluations("v2") == T + 2 + 3 * 2
    assert evaluations("published") == T + 2 + 3 * 2
    assert evaluations("v3") == T + 2
    assert evaluations("zeroth", antithetic=False) == T
    assert evaluations("zeroth", antithetic=True) == 2 * T
    # Sub-chains [0, 2) and [2, 4), each finished once more from its end.
    assert evaluations("half") == T + 2 * (3 * 2) + (T - 2)
    # [0, 1) and [1, 3) before the tail, each for half of the samples.
    half = (3 + (T - 1) + 6 + (T - 3)) / 2
    assert evaluations("rlr", first_order_steps=1) == T + 2 + half
