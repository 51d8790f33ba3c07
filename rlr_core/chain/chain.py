"""A chain bound to one batch, where it starts, and the ways to walk it."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlr_core.chain.conditioning import Conditioning
from rlr_core.chain.denoiser import Denoiser, Prediction, expand
from rlr_core.chain.noise import Noise
from rlr_core.chain.schedule import Schedule
from rlr_core.chain.transition import Transition, transition


class ChainLike(Protocol):
    """What a walk needs to know of a chain; wrap one to change what a step does."""

    @property
    def schedule(self) -> Schedule:
        """The levels of the steps."""
        ...

    @property
    def noise(self) -> Noise:
        """x_0 and z of the batch."""
        ...

    def predict(self, x: Tensor, step: Tensor, samples: Tensor) -> Prediction:
        """x̂ and ε̂ of the samples `samples` (n,) with latents `x` (n, …), the j-th before its own step `step[j]`."""
        ...

    def move(self, x: Tensor, step: Tensor, samples: Tensor) -> Transition:
        """Their transition over that step."""
        ...


@dataclass(frozen=True)
class Chain:
    """Denoiser, schedule and η, bound to the conditioning and the noise of a batch."""

    denoiser: Denoiser
    schedule: Schedule
    conditioning: Conditioning
    noise: Noise
    eta: float

    def predict(self, x: Tensor, step: Tensor, samples: Tensor) -> Prediction:
        """See `ChainLike.predict`."""
        return self.denoiser(x, self.schedule.level(step), self.conditioning.at(step, samples))

    def move(self, x: Tensor, step: Tensor, samples: Tensor) -> Transition:
        """See `ChainLike.move`."""
        level, following = self.schedule.level(step), self.schedule.level(step + 1)
        return transition(self.predict(x, step, samples), level, following, self.eta)


def initial_latents(chain: ChainLike) -> Tensor:
    """x_0 of the whole batch, (B, …): its noise, as wide as the path is at its noisiest level."""
    noise, scale = chain.noise.initial(), chain.schedule.initial_scale
    return noise if scale == 1 else scale * noise


def advance(chain: ChainLike, x: Tensor, step: Tensor, samples: Tensor) -> Tensor:
    """One step, noise included: x_{i+1} = m_i + s_i·z_i, (n, …)."""
    mean, scale = chain.move(x, step, samples)
    if not scale.any():
        return mean
    return mean + expand(scale, mean) * chain.noise.at(step, samples)


def predictions(
    chain: Chain, x: Tensor, samples: Tensor, *, learning: Container[int] = ()
) -> Iterator[tuple[Tensor, Prediction]]:
    """Walk all of `samples` (n,) from x_0, and give at each step the latents before it (n, …) and what is predicted from there.

    One evaluation a step: what is shown is what the walk needs anyway. No gradient goes from one step to another; at the
    steps `learning` the prediction has one.
    """
    for i in range(chain.schedule.steps):
        step = torch.full_like(samples, i)
        with torch.set_grad_enabled(i in learning):
            predicted = chain.predict(x, step, samples)
        yield x, predicted
        x = moved_on(chain, predicted, step, samples)


def moved_on(chain: Chain, predicted: Prediction, step: Tensor, samples: Tensor) -> Tensor:
    """x_{i+1} (n, …) from what was predicted at x_i, each sample's own step i; without gradient."""
    level, following = chain.schedule.level(step), chain.schedule.level(step + 1)
    held = Prediction(*(part.detach() for part in predicted))
    mean, scale = transition(held, level, following, chain.eta)
    return mean + expand(scale, mean) * chain.noise.at(step, samples) if scale.any() else mean


def rollout(
    chain: ChainLike,
    x: Tensor,
    samples: Tensor,
    steps: range,
    *,
    keep: Container[int] = (),
    rerun: bool = False,
) -> tuple[Tensor, dict[int, Tensor]]:
    """Walk all of `samples` (n,) through the same `steps`.

    Args:
        x: (n, …) latents before the first of the steps.
        keep: the steps whose incoming latent is kept.
        rerun: with gradient, keep only the latents and run one step at a time again on the way back.

    Returns:
        The latents after the last step, and step → latents before it for the steps in `keep`.
    """
    kept = {}
    for i in steps:
        if i in keep:
            kept[i] = x
        step = torch.full_like(samples, i)
        if rerun:
            x = checkpoint(advance, chain, x, step, samples, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore
        else:
            x = advance(chain, x, step, samples)
    return x, kept


def propagate(chain: ChainLike, x: Tensor, samples: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Walk each sample through its own steps start_j … stop_j - 1, all in step: (n, …) → (n, …).

    One network call serves every sample that still has a step to go, each at its own timestep.
    """
    for offset in range(int((stop - start).max())):
        active = (start + offset < stop).nonzero().squeeze(1)
        rows = active.to(x.device)
        moved = advance(chain, x[rows], start[active] + offset, samples[active])
        x = moved if len(active) == len(x) else x.index_copy(0, rows, moved)
    return x
