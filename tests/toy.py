"""A linear-Gaussian chain whose J(θ) is known in closed form, and denoisers that are exact for Gaussian data.

The closed form follows the mean and the covariance of the state from step to step. It is written from DDIM's
formula (arXiv 2010.02502, eq. 12 and 16, in ᾱ), not from `rlr_core.chain`, and lets every step have
parameters of its own: the gradient g_i is the derivative with respect to those of step i.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import BatchNoise, Conditioning, Level, Prediction, Schedule, variance_preserving
from rlr_core.chain.denoiser import expand
from rlr_core.estimators import Batch, Problem

STEPS = 4
CUMULATIVE = torch.tensor([0.10, 0.30, 0.54, 0.76, 0.92], dtype=torch.float64)
"""ᾱ of x_0 … x_4: a short chain whose last step adds noise too."""

SIDES = ("left", "right")
OFFSETS = torch.tensor([[-0.4, 0.3], [0.5, 0.2]], dtype=torch.float64)
TARGETS = torch.tensor([[1.2, 0.9], [1.5, 1.3]], dtype=torch.float64)
"""Per side: what the conditioning adds to x̂, and the picture that the reward wants."""

IDENTITY = torch.eye(2, dtype=torch.float64)
THETA = torch.tensor([0.75, 0.15, -0.25, 0.70, 0.15, -0.10], dtype=torch.float64)
BRIGHTNESS, BONUS = 0.5, 1.2


@dataclass(frozen=True)
class LinearDenoiser:
    """x̂ = W·x + b + offset."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        return Prediction.from_sample(x, x @ self.weight.T + self.bias + conditioning["offset"], level)


@dataclass(frozen=True)
class QuadraticReward:
    """R = bonus − ½·|picture − target(side)|²; a prompt begins with its side."""

    differentiable: bool = True
    name: str = "quadratic"

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        wanted = TARGETS[[int(prompt[0] == "r") for prompt in prompts]]
        scores = BONUS - (images - wanted).square().sum(1) / 2
        return scores if self.differentiable else scores.detach()


def decode(latents: Tensor) -> Tensor:
    return BRIGHTNESS * latents


def toy_schedule(steps: int = STEPS) -> Schedule:
    return variance_preserving(CUMULATIVE[STEPS - steps :], torch.arange(steps), float(CUMULATIVE[-1]))


def toy_problem(*, steps: int = STEPS, eta: float = 1.0, differentiable: bool = True) -> Problem:
    weight = THETA[:4].reshape(2, 2).clone().requires_grad_()
    bias = THETA[4:].clone().requires_grad_()
    denoiser, reward = LinearDenoiser(weight, bias), QuadraticReward(differentiable)
    return Problem(denoiser, toy_schedule(steps), decode, reward, [weight, bias], eta)


@dataclass(frozen=True)
class PaintedReward(QuadraticReward):
    """The same of pictures (B, 3, H, W), of which it reads the mean of two channels."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return super().__call__(4 * (images.mean((2, 3))[:, :2] - 0.5), prompts)


def painted(latents: Tensor) -> Tensor:
    """Latents (B, 2) as pictures (B, 3, 8, 8) of one colour each."""
    colour = 0.5 + decode(latents) / 4
    return torch.cat([colour, colour[:, :1]], 1)[:, :, None, None].expand(-1, -1, 8, 8)


def painted_problem(**options: Any) -> Problem:
    """The toy with pictures, for what looks at them."""
    problem = toy_problem(**options)
    return replace(problem, decode=painted, reward=PaintedReward(problem.reward.differentiable))


def toy_batch(size: int, seed: int, *, group: int = 2, steps: int = STEPS) -> Batch:
    """Each prompt `group` times, evenly apart; as many samples of either side."""
    prompts, conditioning = toy_prompts(size, group, steps)
    return Batch(prompts, conditioning, BatchNoise(seed, (size, 2), torch.float64), seed)


@functools.cache
def toy_prompts(size: int, group: int, steps: int) -> tuple[list[str], Conditioning]:
    apart = size // group
    assert apart * group == size and apart % 2 == 0
    numbers = [j % apart for j in range(size)]
    offsets = OFFSETS[torch.tensor(numbers) % 2]
    return [f"{SIDES[n % 2]} {n}" for n in numbers], Conditioning.constant({"offset": offsets}, steps)


@dataclass(frozen=True)
class Moments:
    """Mean (N, 2) and covariance (N, 2, 2) of a Gaussian state, for one side of the prompts, in closed form."""

    mean: Tensor
    cov: Tensor
    side: int

    @classmethod
    def start(cls, count: int, side: int) -> Moments:
        """x_0 ~ N(0, I)."""
        return cls(torch.zeros(count, 2, dtype=torch.float64), IDENTITY.expand(count, 2, 2), side)

    def affine(self, matrix: Tensor, shift: Tensor, added: Tensor) -> Moments:
        """Of matrix·x + shift + added·z."""
        mean = (matrix @ self.mean[..., None])[..., 0] + shift
        return Moments(mean, matrix @ self.cov @ matrix.mT + added**2 * IDENTITY, self.side)

    def step(self, theta: Tensor, i: int, *, steps: int, eta: float = 1.0) -> Moments:
        """After step i of `steps`, whose parameters are theta (N, 6)."""
        now, then = CUMULATIVE[STEPS - steps + i : STEPS - steps + i + 2]
        added = eta * ((1 - then) / (1 - now)).sqrt() * (1 - now / then).sqrt()
        along = (1 - then - added**2).sqrt() / (1 - now).sqrt()
        of_x_hat = then.sqrt() - along * now.sqrt()
        matrix = of_x_hat * theta[:, :4].reshape(-1, 2, 2) + along * IDENTITY
        return self.affine(matrix, of_x_hat * (theta[:, 4:] + OFFSETS[self.side]), added)

    def predicted(self, theta: Tensor) -> Moments:
        """Of x̂ with the parameters theta (N, 6)."""
        zero = torch.zeros((), dtype=torch.float64)
        return self.affine(theta[:, :4].reshape(-1, 2, 2), theta[:, 4:] + OFFSETS[self.side], zero)

    def noised(self, i: int, *, steps: int) -> Moments:
        """Of α·x + σ·ε at the level before step i of `steps`."""
        abar = CUMULATIVE[STEPS - steps + i]
        return self.affine(abar.sqrt() * IDENTITY, torch.zeros(2, dtype=torch.float64), (1 - abar).sqrt())

    def reward(self) -> Tensor:
        """E[R] (N,) of a clean latent."""
        spread = BRIGHTNESS**2 * self.cov.diagonal(dim1=1, dim2=2).sum(1)
        return BONUS - ((BRIGHTNESS * self.mean - TARGETS[self.side]).square().sum(1) + spread) / 2


def both_sides(value: Callable[[Moments], Tensor], count: int) -> Tensor:
    """`value` (N,) of a start at either side, in the mean."""
    return torch.stack([value(Moments.start(count, side)) for side in range(len(SIDES))]).mean(0)


def walk(state: Moments, theta: Tensor, *, steps: int, eta: float = 1.0) -> Moments:
    """After the first len(theta) steps, with parameters of every step's own: theta (…, N, 6)."""
    for i, mine in enumerate(theta):
        state = state.step(mine, i, steps=steps, eta=eta)
    return state


def closed_form(theta: Tensor, *, eta: float = 1.0) -> Tensor:
    """J for parameters of every step's own: theta (T, N, 6) → (N,)."""
    steps, count, _ = theta.shape
    return both_sides(lambda state: walk(state, theta, steps=steps, eta=eta).reward(), count)


def step_gradients(e: Tensor, perturbed: Tensor, sigma: float, *, eta: float = 1.0) -> tuple[Tensor, Tensor]:
    """J (N,) and g_i (T, N, 6) where the steps `perturbed` (T,) run with θ + ς·e, for each e (N, 6)."""
    shift = sigma * e * perturbed[:, None, None]
    theta = (THETA + shift).requires_grad_()
    J = closed_form(theta, eta=eta)
    return J.detach(), torch.autograd.grad(J.sum(), theta)[0]


def gauss_hermite(nodes: int, dimensions: int) -> tuple[Tensor, Tensor]:
    """Points (N, dimensions) and weights (N,): exact means under N(0, I) up to degree 2·nodes-1.

    From the Jacobi matrix (Golub and Welsch, 1969).
    """
    off_diagonal = torch.arange(1, nodes, dtype=torch.float64).sqrt()
    points, vectors = torch.linalg.eigh(off_diagonal.diag(1) + off_diagonal.diag(-1))
    weights = vectors[0] ** 2
    grid = torch.cartesian_prod(*[torch.arange(nodes)] * dimensions).reshape(-1, dimensions)
    return points[grid], weights[grid].prod(1)


@dataclass(frozen=True)
class GaussianDenoiser:
    """E[x̂ | x] in closed form for data ~ N(mean, cov): the exact denoiser of any path x = α·x̂ + σ·ε."""

    mean: Tensor
    cov: Tensor

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        alpha, sigma = level.alpha[:, None, None], level.sigma[:, None, None]
        total = alpha**2 * self.cov + sigma**2 * torch.eye(len(self.mean), dtype=x.dtype)
        residual = x - expand(level.alpha, x) * self.mean
        whitened = torch.linalg.solve(total, residual[..., None])
        # Both parts in closed form, so that neither is divided by a vanishing α or σ.
        return Prediction(self.mean + (alpha * self.cov @ whitened)[..., 0], (sigma * whitened)[..., 0])
