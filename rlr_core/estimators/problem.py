"""What an estimator is given: the objective J(θ) = E[R(decode(x_T), prompt)] and one batch of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from rlr_core.chain import Chain, Conditioning, Cost, Counted, Denoiser, Noise, Schedule
from rlr_core.estimators.collective import Alone, Collective
from rlr_core.estimators.gain import Gain


class RewardFunction(Protocol):
    """Scores pictures: images (B, 3, H, W), range [0, 1], and B prompts → (B,)."""

    @property
    def name(self) -> str:
        """Shown to the user."""
        ...

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow from the scores to the images."""
        ...

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The scores (B,), the higher the better."""
        ...


@dataclass(frozen=True)
class Batch:
    """B samples to estimate from.

    Attributes:
        prompts: what the reward is told, B of them.
        conditioning: what the denoiser is told.
        noise: x_0 and z_i.
        seed: for the estimator's own draws (sub-chains, perturbations), independent of the noise.
    """

    prompts: Sequence[str]
    conditioning: Conditioning
    noise: Noise
    seed: int

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class Problem:
    """The objective and the parameters θ it is maximised over.

    Attributes:
        denoiser: uses θ.
        decode: latents x_T (B, C, h, w) → images (B, 3, H, W), range [0, 1]; differentiable.
        parameters: θ, leaf tensors that require a gradient.
        eta: η of the transition; 0 leaves no noise for a likelihood ratio.
        gain: scales gradients on their way through a network in float16; without one they go as they are.
        collective: the processes that share every batch. It is here, and not in the batch, because a run has one.
        window: steps that sub-chains are limited to; other steps' gradients are then left out on purpose, but for those of
            the first-order and zeroth-order parts. None is no limit.
    """

    denoiser: Denoiser
    schedule: Schedule
    decode: Callable[[Tensor], Tensor]
    reward: RewardFunction
    parameters: Sequence[Tensor]
    eta: float = 1.0
    gain: Gain | None = None
    collective: Collective = field(default_factory=Alone)
    window: range | None = None

    def limited(self, before: int) -> range:
        """Of the steps 0 … before-1, those that sub-chains may be of."""
        window = self.window or range(self.steps)
        return range(min(window.start, before), min(window.stop, before))

    @property
    def steps(self) -> int:
        """T."""
        return self.schedule.steps

    @property
    def scales(self) -> Tensor:
        """s_0 … s_{T-1}, (T,)."""
        return self.schedule.scales(self.eta)

    def counted(self, cost: Cost) -> Problem:
        """The same problem, with every network evaluation added to `cost`."""
        return replace(self, denoiser=Counted(self.denoiser, cost))

    def chain(self, batch: Batch) -> Chain:
        """The chain that generates `batch`."""
        return Chain(self.denoiser, self.schedule, batch.conditioning, batch.noise, self.eta)

    def score(self, latents: Tensor, batch: Batch, samples: Tensor) -> Tensor:
        """R(decode(x_T), prompt) of the samples `samples` (n,), (n,) in the dtype of θ."""
        numbers: list[int] = samples.tolist()
        prompts = [batch.prompts[j] for j in numbers]
        images = self.decode(self.amplified(latents))
        return self.reward(images, prompts).to(self.parameters[0].dtype)

    def amplified(self, latents: Tensor) -> Tensor:
        """`latents`, through which all of an objective's gradient has to come to be scaled by `gain`."""
        return self.gain.through(latents) if self.gain else latents

    def gradient(self, objective: Tensor, *, retain_graph: bool = False) -> Tensor:
        """∂objective/∂θ, flat (P,)."""
        return flatten(self.slopes(objective, self.parameters, retain_graph=retain_graph))

    def slopes(self, objective: Tensor, of: Sequence[Tensor], *, retain_graph: bool = False) -> list[Tensor]:
        """∂objective/∂ each of `of`; 0 where it does not depend on it."""
        gain = self.gain or Gain()
        gain.value = 1.0
        grads = torch.autograd.grad(objective, list(of), allow_unused=True, retain_graph=retain_graph)
        return [torch.zeros_like(p) if g is None else gain.undone(g) for p, g in zip(of, grads, strict=True)]


def flatten(tensors) -> Tensor:
    """Tensors end to end, (P,)."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
