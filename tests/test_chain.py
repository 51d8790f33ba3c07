"""Schedule, transition, denoisers, noise, conditioning and the two walks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor
from toy import GaussianDenoiser

from rlr_core.chain import (
    BatchNoise,
    Chain,
    Conditioning,
    Cost,
    Counted,
    Denoiser,
    Guided,
    Level,
    Prediction,
    SampleNoise,
    Schedule,
    flow_matching,
    initial_latents,
    propagate,
    rollout,
    transition,
    variance_exploding,
    variance_preserving,
)
from rlr_core.chain.noise import derive_seed

LATENT = (2, 3, 3)
PREDICTIONS = {
    "epsilon": Prediction.from_noise,
    "v_prediction": Prediction.from_velocity,
    "sample": Prediction.from_sample,
}


@dataclass
class Network:
    """A smooth function of latent and timestep, read as eps-, v- or x̂-prediction; notes what it is shown."""

    kind: str = "epsilon"
    seen: list[dict[str, Tensor]] = field(default_factory=list)

    def output(self, x: Tensor, time: Tensor) -> Tensor:
        phase = (time.double() / 1000).to(x).reshape(-1, 1, 1, 1)
        return torch.sin(1.3 * x + phase) + 0.2 * x.flip(1)

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        self.seen.append({"time": level.time, **conditioning})
        shift = conditioning["shift"].to(x).reshape(-1, 1, 1, 1) if "shift" in conditioning else 0
        return PREDICTIONS[self.kind](x, self.output(x, level.time) + shift, level)


def vp_schedule(steps: int = 6) -> Schedule:
    abar = torch.linspace(0.995, 0.01, 1000, dtype=torch.float64)
    return variance_preserving(abar, torch.arange(steps - 1, -1, -1) * (1000 // steps), 1.0)


def chain(
    denoiser: Denoiser, schedule: Schedule, noise, *, eta: float = 1.0, **conditioning: Tensor
) -> Chain:
    return Chain(denoiser, schedule, Conditioning.constant(conditioning, schedule.steps), noise, eta)


def every(size: int) -> Tensor:
    return torch.arange(size)


# Against diffusers


@pytest.mark.parametrize("steps", [4, 10, 50])
@pytest.mark.parametrize(("one", "offset"), [(True, 0), (True, 1), (False, 0), (False, 1)])
@pytest.mark.parametrize("kind", list(PREDICTIONS))
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_the_chain_is_that_of_diffusers_ddim(
    eta: float, kind: str, one: bool, offset: int, steps: int
) -> None:
    """In float64 to 1e-11 over the whole chain; in float32 step by step from the same latent to 4e-6."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=kind,
        clip_sample=False, set_alpha_to_one=one, steps_offset=offset,
    )  # fmt: skip
    # In double precision, as this project's schedules are.
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    scheduler.set_timesteps(steps)
    final = float(scheduler.final_alpha_cumprod)
    schedule = variance_preserving(scheduler.alphas_cumprod, scheduler.timesteps, final)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 4e-6)):
        noise = BatchNoise(3, (2, *LATENT), dtype)
        network = Network(kind)
        walked = chain(network, schedule, noise, eta=eta)
        x = noise.initial()
        for i, time in enumerate(scheduler.timesteps):
            step = torch.full((2,), i)
            ours, _ = rollout(walked, x, every(2), range(i, i + 1))
            output = network.output(x, time.expand(2))
            options = {"variance_noise": noise.at(step, every(2)), "eta": eta} if eta else {}
            theirs = scheduler.step(output, time, x, **options).prev_sample
            assert torch.equal(network.seen[-1]["time"], time.expand(2))
            assert (ours - theirs).abs().max() <= tolerance * max(1.0, float(theirs.abs().max()))
            x = theirs if dtype == torch.float32 else ours


def test_zero_terminal_snr_is_finite_and_that_of_diffusers() -> None:
    """ᾱ = 0 at the first step, with v-prediction."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        prediction_type="v_prediction",
        clip_sample=False,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(10)
    scheduler.alphas_cumprod = cumulative = scheduler.alphas_cumprod.double()
    schedule = variance_preserving(cumulative, scheduler.timesteps, float(scheduler.final_alpha_cumprod))
    noise, network = BatchNoise(3, (2, *LATENT), torch.float64), Network("v_prediction")
    ours = noise.initial()
    for i, time in enumerate(scheduler.timesteps):
        z = noise.at(torch.full((2,), i), every(2))
        theirs = scheduler.step(network.output(ours, time.expand(2)), time, ours, eta=1.0, variance_noise=z)
        ours, _ = rollout(chain(network, schedule, noise), ours, every(2), range(i, i + 1))
        # At ᾱ = 0, 1 - ᾱ' - s² is 0 but for rounding, of which its root is taken.
        tolerance = 1e-7 if i == 0 else 1e-11
        assert torch.allclose(ours, theirs.prev_sample, rtol=tolerance, atol=tolerance)


# Schedules


def test_schedules_follow_their_paths() -> None:
    vp = vp_schedule(5)
    flow = flow_matching(torch.linspace(1, 0, 6))
    ve = variance_exploding(torch.tensor([14.6, 5.0, 1.0, 0.2, 0.0]))
    assert torch.allclose(vp.alpha**2 + vp.sigma**2, torch.ones(6, dtype=torch.float64))
    assert torch.equal(flow.alpha, 1 - flow.sigma) and torch.equal(flow.time, 1000 * flow.sigma)
    assert torch.equal(ve.alpha, torch.ones(5, dtype=torch.float64)) and torch.equal(ve.time, ve.sigma)
    assert [schedule.steps for schedule in (vp, flow, ve)] == [5, 5, 4]
    for schedule in (vp, flow, ve):
        snr = schedule.alpha / schedule.sigma
        assert (snr.diff() > 0).all() and schedule.sigma[-1] == 0
        assert (schedule.scales(0.0) == 0).all()
        half, full = schedule.scales(0.5), schedule.scales(1.0)
        assert torch.allclose(2 * half, full) and (full[:-1] > 0).all() and full[-1] == 0
        assert (full <= schedule.sigma[1:]).all()


def test_ancestral_noise_is_the_posterior_of_ddpm() -> None:
    """η = 1: s² = β̃_t = (1-ᾱ')/(1-ᾱ)·(1-ᾱ/ᾱ') (arXiv 2006.11239, eq. 7)."""
    schedule = vp_schedule(10)
    now, then = schedule.alpha[:-1] ** 2, schedule.alpha[1:] ** 2
    posterior = (1 - then) / (1 - now) * (1 - now / then)
    assert torch.allclose(schedule.scales(1.0) ** 2, posterior, atol=1e-15)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_flow_starts_from_pure_noise(eta: float) -> None:
    """t = 1, α = 0: nothing is divided by α. At η = 1 the first step adds all of the next level's noise."""
    schedule = flow_matching(torch.linspace(1, 0, 5))

    def denoiser(x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        return Prediction.from_flow(x, torch.tanh(x), level)

    noise = BatchNoise(0, (4, *LATENT), torch.float64)
    x, kept = rollout(
        chain(denoiser, schedule, noise, eta=eta), noise.initial(), every(4), range(4), keep=range(4)
    )
    assert x.isfinite().all() and all(latent.isfinite().all() for latent in kept.values())
    assert schedule.scales(eta)[0] == eta * schedule.sigma[1]


def test_flow_without_noise_is_the_euler_step_of_its_ode() -> None:
    schedule = flow_matching(torch.tensor([1.0, 0.7, 0.3, 0.0]))
    x = torch.randn(3, *LATENT, dtype=torch.float64)
    flow = torch.randn_like(x)
    for i in range(3):
        now, then = (schedule.level(torch.full((3,), k)) for k in (i, i + 1))
        mean, scale = transition(Prediction.from_flow(x, flow, now), now, then, 0.0)
        assert torch.allclose(mean, x + (then.sigma - now.sigma).reshape(-1, 1, 1, 1) * flow)
        assert (scale == 0).all()


@pytest.mark.parametrize("name", ["noise", "sample", "velocity", "flow"])
def test_every_prediction_puts_the_latent_together_again(name: str) -> None:
    """x = α·x̂ + σ·ε̂, whatever is predicted, and a perfect prediction returns what x was made of."""
    clean, noise = torch.randn(2, 3, *LATENT, dtype=torch.float64)
    schedule = flow_matching(torch.tensor([0.9, 0.5, 0.1, 0.0])) if name == "flow" else vp_schedule(3)
    level = schedule.level(torch.arange(3))
    alpha, sigma = (value.reshape(-1, 1, 1, 1) for value in level[:2])
    x = alpha * clean + sigma * noise
    target = {
        "noise": noise,
        "sample": clean,
        "velocity": alpha * noise - sigma * clean,
        "flow": noise - clean,
    }
    prediction = getattr(Prediction, f"from_{name}")(x, target[name], level)
    assert torch.allclose(prediction.sample, clean) and torch.allclose(prediction.noise, noise)


# The marginals of the path, with the exact denoiser of Gaussian data


DATA_MEAN = torch.tensor([0.7, -0.4], dtype=torch.float64)
DATA_COV = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)


def path(name: str, steps: int) -> Schedule:
    if name == "flow":
        return flow_matching(torch.linspace(1, 0, steps + 1))
    if name == "ve":
        return variance_exploding(
            torch.cat([torch.logspace(3.5, -3, steps, dtype=torch.float64), torch.zeros(1)])
        )
    cosine = torch.cos(torch.linspace(0.0, 1.5707, 100_001, dtype=torch.float64)) ** 2
    times = torch.linspace(100_000, 0, steps + 1).long()[:-1]
    return variance_preserving(cosine, times, 1.0)


def moments(schedule: Schedule, eta: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x_T, exactly: each step is affine, so its matrix is read off at three points."""
    denoiser = GaussianDenoiser(DATA_MEAN, DATA_COV)
    mean = torch.zeros(2, dtype=torch.float64)
    cov = torch.eye(2, dtype=torch.float64) * (schedule.alpha[0] ** 2 + schedule.sigma[0] ** 2)
    points = torch.tensor([[0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    for i in range(schedule.steps):
        now, then = (schedule.level(torch.full((3,), k)) for k in (i, i + 1))
        moved, scale = transition(denoiser(points, now, {}), now, then, eta)
        matrix = (moved[1:] - moved[0]).T
        mean = matrix @ mean + moved[0]
        cov = matrix @ cov @ matrix.T + scale[0] ** 2 * torch.eye(2, dtype=torch.float64)
    return mean, cov


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["vp", "flow", "ve"])
def test_the_chain_ends_in_the_data_distribution(name: str, eta: float) -> None:
    """No sampling error: what remains is discretisation, which falls as 1/T."""
    errors = []
    for steps in (250, 1000):
        mean, cov = moments(path(name, steps), eta)
        errors.append(float((mean - DATA_MEAN).norm() + (cov - DATA_COV).norm()))
    assert errors[1] < 0.02
    assert errors[1] < 0.35 * errors[0]


@pytest.mark.parametrize("name", ["vp", "flow", "ve"])
def test_a_rollout_has_the_moments_of_the_recursion(name: str) -> None:
    """20,000 samples of a chain; within 6 standard errors for each moment (P < 1e-7)."""
    schedule, size = path(name, 20), 20_000
    walked = chain(GaussianDenoiser(DATA_MEAN, DATA_COV), schedule, BatchNoise(0, (size, 2), torch.float64))
    x, _ = rollout(walked, initial_latents(walked), every(size), range(20))
    mean, cov = moments(schedule, 1.0)
    variance = cov.diagonal()
    assert ((x.mean(0) - mean).abs() < 6 * (variance / size).sqrt()).all()
    error = ((variance[:, None] * variance + cov**2) / size).sqrt()
    assert ((x.T.cov() - cov).abs() < 6 * error).all()


def test_x_0_of_an_exploding_path_is_as_wide_as_diffusers_makes_it() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="leading")
    scheduler.set_timesteps(10)
    assert variance_exploding(scheduler.sigmas).initial_scale == pytest.approx(
        float(scheduler.init_noise_sigma)
    )


@pytest.mark.parametrize("largest", [14.6, 80.0])
def test_samples_of_an_exploding_path_are_the_data(largest: float) -> None:
    """From Stable Diffusion's largest σ and from EDM's, without noise on the way, which would let the chain forget its start.

    Within 6 standard errors of 20,000 samples, and what 500 steps leave of the discretisation (0.02).
    """
    sigmas = torch.cat([torch.logspace(math.log10(largest), -3, 500, dtype=torch.float64), torch.zeros(1)])
    size, schedule = 20_000, variance_exploding(sigmas)
    noise = BatchNoise(0, (size, 2), torch.float64)
    walked = chain(GaussianDenoiser(DATA_MEAN, DATA_COV), schedule, noise, eta=0.0)
    x, _ = rollout(walked, initial_latents(walked), every(size), range(schedule.steps))
    error = 6 * math.sqrt(2 * float(DATA_COV.max()) ** 2 / size) + 0.02
    assert (x.mean(0) - DATA_MEAN).abs().max() < error
    assert (x.T.cov() - DATA_COV).abs().max() < error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [3, 10, 250])
@pytest.mark.parametrize("name", ["vp", "flow"])
def test_other_chains_start_from_the_noise_itself_to_the_bit(
    name: str, steps: int, dtype: torch.dtype
) -> None:
    noise = BatchNoise(0, (50, 2), dtype)
    for schedule in (path(name, steps), vp_schedule(steps)):
        walked = chain(GaussianDenoiser(DATA_MEAN, DATA_COV), schedule, noise)
        assert (
            torch.equal(initial_latents(walked), noise.initial()) and initial_latents(walked).dtype == dtype
        )


# Guidance and cost


def test_guidance_mixes_both_halves() -> None:
    network, scale = Network(), 3.5
    x, level = torch.randn(3, *LATENT), vp_schedule().level(torch.tensor([0, 2, 5]))
    positive, negative = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, -1.0, 0.5])
    guided = Guided(network, scale)(x, level, {"shift": positive, "negative_shift": negative})
    assert len(network.seen) == 1 and len(network.seen[0]["time"]) == 6
    with_prompt, without = (Network()(x, level, {"shift": shift}) for shift in (positive, negative))
    for mixed, a, b in zip(guided, with_prompt, without, strict=True):
        assert torch.allclose(mixed, b + scale * (a - b), rtol=1e-4, atol=1e-4)


def test_guidance_of_scale_one_evaluates_one_half() -> None:
    network = Network()
    x, level = torch.randn(3, *LATENT), vp_schedule().level(torch.tensor([0, 2, 5]))
    conditioning = {"shift": torch.ones(3), "negative_shift": torch.zeros(3)}
    guided = Guided(network, 1.0)(x, level, conditioning)
    assert len(network.seen[0]["time"]) == 3 and "negative_shift" not in network.seen[0]
    assert torch.equal(guided.noise, Network()(x, level, {"shift": torch.ones(3)}).noise)


@dataclass
class Scaled:
    """A denoiser with one parameter."""

    parameter: Tensor

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        return Prediction.from_noise(x, self.parameter * torch.tanh(x), level)


@pytest.mark.parametrize(("rerun", "evaluations"), [(False, 3), (True, 4)])
def test_evaluations_are_counted_as_they_happen(rerun: bool, evaluations: int) -> None:
    parameter, cost, schedule = torch.tensor(0.5, requires_grad=True), Cost(), vp_schedule(6)
    noise = BatchNoise(0, (3, *LATENT), torch.float32)
    walked = chain(Counted(Scaled(parameter), cost), schedule, noise)
    with torch.no_grad():
        x, _ = rollout(walked, noise.initial(), every(3), range(2))
    assert cost == Cost(forward=6, backward=0)
    x, _ = rollout(walked, x, every(3), range(2, 6), rerun=rerun)
    assert cost.backward == 0
    torch.autograd.grad(x.sum(), parameter)
    assert cost.forward == 6 + 12 * (evaluations - 2) and cost.backward == 12
    assert cost.evaluations == 6 + 12 * evaluations


def test_a_guided_evaluation_counts_once_and_an_unused_graph_not_at_all() -> None:
    parameter, cost = torch.tensor(0.5, requires_grad=True), Cost()
    denoiser = Counted(Guided(Scaled(parameter), 2.0), cost)
    x, level = torch.randn(3, *LATENT), vp_schedule().level(torch.tensor([0, 2, 5]))
    conditioning = {"text": torch.zeros(3), "negative_text": torch.zeros(3)}
    prediction = denoiser(x, level, conditioning)
    assert cost == Cost(3, 0)
    torch.autograd.grad(prediction.sample.sum() + prediction.noise.sum(), parameter)
    assert cost == Cost(3, 3)


def test_rerunning_steps_leaves_the_gradient_as_it_is() -> None:
    gradients = []
    for rerun in (False, True):
        parameter = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        noise = BatchNoise(0, (3, *LATENT), torch.float64)
        walked = chain(Scaled(parameter), vp_schedule(6), noise)
        x, _ = rollout(walked, noise.initial(), every(3), range(6), rerun=rerun)
        gradients.append(torch.autograd.grad(x.square().sum(), parameter)[0])
    assert torch.equal(*gradients)


# Noise


def test_a_picture_depends_on_its_own_seed_only() -> None:
    schedule, seeds = vp_schedule(6), [11, 22, 33, 44]

    def paint(chosen: list[int]) -> Tensor:
        noise = SampleNoise(chosen, LATENT, torch.float64, "cpu")
        return rollout(chain(Network(), schedule, noise), noise.initial(), every(len(chosen)), range(6))[0]

    together = paint(seeds)
    assert torch.equal(paint([33, 11])[0], together[2])
    assert torch.equal(paint([22])[0], together[1])
    # In chunks of one batch, too.
    noise = SampleNoise(seeds, LATENT, torch.float64, "cpu")
    late = torch.tensor([2, 3])
    chunk, _ = rollout(chain(Network(), schedule, noise), noise.initial()[late], late, range(6))
    assert torch.equal(chunk, together[2:])


@pytest.mark.parametrize("kind", ["samples", "batch"])
def test_noise_is_independent_between_steps_and_seeds_and_regenerates(kind: str) -> None:
    """Correlations of 20,000 numbers, each below 6/√n (P < 1e-8)."""
    shape = (100, 100)

    def make(seed: int):
        if kind == "batch":
            return BatchNoise(seed, (2, *shape), torch.float64)
        return SampleNoise([2 * seed, 2 * seed + 1], shape, torch.float64, "cpu")

    draws = []
    for seed in (0, 1):
        noise = make(seed)
        values = [noise.initial(), *(noise.at(torch.full((2,), i), every(2)) for i in range(3))]
        assert torch.equal(values[2], make(seed).at(torch.full((2,), 1), every(2)))
        assert torch.equal(noise.at(torch.tensor([2]), torch.tensor([1]))[0], values[3][1])
        draws += [value[k].flatten() for value in values for k in range(2)]
    correlation = torch.stack(draws) @ torch.stack(draws).T / draws[0].numel()
    bound = 6 * 2**0.5 / draws[0].numel() ** 0.5
    assert (correlation - torch.eye(len(draws))).abs().max() < bound


def test_seeds_of_different_words_differ() -> None:
    words = [(1, 2), (12,), ("1", 2), (1, "2"), (2, 1), ("initial",), (0,), ("plan", 0)]
    assert len({derive_seed(*word) for word in words}) == len(words)
    assert all(0 <= derive_seed(*word) < 2**63 for word in words)


# Walks


def test_propagate_equals_one_sample_at_a_time() -> None:
    """Ragged sub-chains, some of them empty."""
    schedule = vp_schedule(8)
    size = 7
    noise = SampleNoise(range(size), LATENT, torch.float64, "cpu")
    walked = chain(Network(), schedule, noise, shift=torch.linspace(-1, 1, size))
    start = torch.tensor([0, 3, 5, 2, 7, 0, 4])
    stop = torch.tensor([8, 3, 6, 7, 8, 1, 4])
    x = torch.randn(size, *LATENT, dtype=torch.float64)
    together = propagate(walked, x, every(size), start, stop)
    for j in range(size):
        alone, _ = rollout(walked, x[j : j + 1], torch.tensor([j]), range(int(start[j]), int(stop[j])))
        assert torch.allclose(together[j], alone[0], rtol=1e-12, atol=1e-14)
    assert torch.equal(together[1], x[1]) and torch.equal(together[6], x[6])


def test_propagate_calls_the_network_once_for_all_that_still_walk() -> None:
    schedule, network = vp_schedule(8), Network()
    walked = chain(network, schedule, BatchNoise(0, (3, *LATENT), torch.float64))
    x = torch.randn(3, *LATENT, dtype=torch.float64)
    propagate(walked, x, every(3), torch.tensor([0, 5, 2]), torch.tensor([3, 6, 4]))
    shown = [seen["time"].tolist() for seen in network.seen]
    time = schedule.time
    assert shown == [[time[0], time[5], time[2]], [time[1], time[3]], [time[2]]]


def test_the_gradient_of_ragged_walks_is_that_of_each_alone() -> None:
    schedule, size = vp_schedule(8), 5
    noise = SampleNoise(range(size), LATENT, torch.float64, "cpu")
    parameter = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    walked = chain(Scaled(parameter), schedule, noise)
    start, stop = torch.tensor([0, 2, 4, 1, 6]), torch.tensor([3, 4, 8, 6, 7])
    x = torch.randn(size, *LATENT, dtype=torch.float64)
    (together,) = torch.autograd.grad(
        propagate(walked, x, every(size), start, stop).square().sum(), parameter
    )
    alone = torch.zeros((), dtype=torch.float64)
    for j in range(size):
        y, _ = rollout(walked, x[j : j + 1], torch.tensor([j]), range(int(start[j]), int(stop[j])))
        alone += torch.autograd.grad(y.square().sum(), parameter)[0]
    assert torch.allclose(together, alone, rtol=1e-12)


def test_a_large_batch_of_sub_chains_each_at_its_own_timestep() -> None:
    schedule, size = vp_schedule(10), 3000
    network = Network()
    walked = chain(network, schedule, BatchNoise(0, (size, *LATENT), torch.float64))
    start = torch.arange(size) % 8
    x = torch.randn(size, *LATENT, dtype=torch.float64)
    together = propagate(walked, x, every(size), start, start + 2)
    assert len(network.seen) == 2
    assert torch.equal(network.seen[0]["time"], schedule.time[start])
    for first in range(8):
        rows = (start == first).nonzero().squeeze(1)
        alone, _ = rollout(walked, x[rows], rows, range(first, first + 2))
        assert torch.allclose(together[rows], alone, rtol=1e-12)


def test_a_rollout_keeps_what_it_is_asked_for_and_no_more() -> None:
    noise = BatchNoise(0, (2, *LATENT), torch.float64)
    walked = chain(Network(), vp_schedule(6), noise)
    x, kept = rollout(walked, noise.initial(), every(2), range(6), keep={0, 4})
    assert sorted(kept) == [0, 4]
    assert torch.equal(kept[0], noise.initial())
    again, nothing = rollout(walked, kept[4], every(2), range(4, 6))
    assert torch.equal(again, x) and nothing == {}


def test_stage_conditioning_reaches_the_denoiser_at_its_own_steps() -> None:
    schedule, network = vp_schedule(6), Network()
    stages = [{"shift": torch.tensor([10.0 * s, 10.0 * s + 1])} for s in range(3)]
    conditioning = Conditioning.staged(stages, torch.tensor([0, 0, 1, 2, 2, 2]))
    noise = BatchNoise(0, (2, *LATENT), torch.float64)
    walked = replace(chain(network, schedule, noise), conditioning=conditioning)
    rollout(walked, noise.initial(), every(2), range(6))
    assert [seen["shift"].tolist() for seen in network.seen] == [
        [0, 1], [0, 1], [10, 11], [20, 21], [20, 21], [20, 21],
    ]  # fmt: skip
    network.seen.clear()
    x = noise.initial()
    propagate(walked, x, every(2), torch.tensor([1, 3]), torch.tensor([3, 5]))
    assert [seen["shift"].tolist() for seen in network.seen] == [[0, 21], [10, 21]]


def test_without_noise_the_chain_is_deterministic_given_its_start() -> None:
    class Silent:
        def initial(self) -> Tensor:
            return torch.zeros(2, *LATENT)

        def at(self, step: Tensor, samples: Tensor) -> Tensor:
            raise AssertionError("η = 0 draws no noise")

    x, _ = rollout(
        chain(Network(), vp_schedule(6), Silent(), eta=0.0), torch.ones(2, *LATENT), every(2), range(6)
    )
    assert torch.equal(x[0], x[1])
