"""The denoiser protocol: whatever a model predicts, the chain sees the clean latent x̂ and the noise ε̂."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rlr_core.chain.schedule import Level


def expand(values: Tensor, like: Tensor) -> Tensor:
    """`values` (B,) shaped (B, 1, …, 1), on the device and in the dtype of `like` (B, …)."""
    return values.to(like).reshape(-1, *[1] * (like.dim() - 1))


class Prediction(NamedTuple):
    """What a denoiser makes of x = α·x̂ + σ·ε̂: both parts, each (B, …) like x."""

    sample: Tensor
    noise: Tensor

    @classmethod
    def from_noise(cls, x: Tensor, noise: Tensor, level: Level) -> Prediction:
        """ε-prediction: x̂ = (x − σε̂)/α."""
        return cls((x - expand(level.sigma, x) * noise) / expand(level.alpha, x), noise)

    @classmethod
    def from_sample(cls, x: Tensor, sample: Tensor, level: Level) -> Prediction:
        """x̂-prediction: ε̂ = (x − αx̂)/σ."""
        return cls(sample, (x - expand(level.alpha, x) * sample) / expand(level.sigma, x))

    @classmethod
    def from_velocity(cls, x: Tensor, velocity: Tensor, level: Level) -> Prediction:
        """v-prediction (arXiv 2202.00512): v = αε − σx̂, for α² + σ² = 1."""
        alpha, sigma = expand(level.alpha, x), expand(level.sigma, x)
        return cls(alpha * x - sigma * velocity, alpha * velocity + sigma * x)

    @classmethod
    def from_flow(cls, x: Tensor, flow: Tensor, level: Level) -> Prediction:
        """Flow velocity u = ε − x̂ (arXiv 2210.02747), for α = 1-σ."""
        sigma = expand(level.sigma, x)
        return cls(x - sigma * flow, x + (1 - sigma) * flow)


class Denoiser(Protocol):
    """A model as the chain sees it."""

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        """Predict from `x` (B, …), each sample at its own level, with conditioning tensors of B rows."""
        ...


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (arXiv 2207.12598) around a denoiser: both halves in one call of 2B rows.

    Conditioning keys that begin with `negative_` replace their namesakes in the unconditional half. Guidance is linear, so
    it may act on x̂ and ε̂ alike whatever the network predicts.
    """

    denoiser: Denoiser
    scale: float

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        positive = {key: value for key, value in conditioning.items() if not key.startswith("negative_")}
        if self.scale == 1:
            return self.denoiser(x, level, positive)
        both = {key: torch.cat([conditioning["negative_" + key], value]) for key, value in positive.items()}
        twice = Level(*(torch.cat([value, value]) for value in level))
        predicted = self.denoiser(torch.cat([x, x]), twice, both)
        return Prediction(*(self._mix(*part.chunk(2)) for part in predicted))

    def _mix(self, negative: Tensor, positive: Tensor) -> Tensor:
        return negative + self.scale * (positive - negative)


@dataclass
class Cost:
    """Network evaluations, counted as they happen; a guided evaluation (two halves) counts once.

    `forward` and `backward` count samples; a backward pass is worth two evaluations, so forward + backward is 3.
    """

    forward: int = 0
    backward: int = 0

    @property
    def evaluations(self) -> int:
        """Forward passes + 2 × backward passes."""
        return self.forward + 2 * self.backward


@dataclass(frozen=True)
class Counted:
    """A denoiser that adds what it does to `cost`; a backward pass is counted when a gradient arrives."""

    denoiser: Denoiser
    cost: Cost

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        self.cost.forward += len(x)
        prediction = self.denoiser(x, level, conditioning)
        if prediction.noise.requires_grad:
            # One tensor carries both parts, so that the hook fires once however many of them are used.
            joint = torch.stack(prediction)
            joint.register_hook(self._count_backward)
            prediction = Prediction(joint[0], joint[1])
        return prediction

    def _count_backward(self, gradient: Tensor) -> None:
        self.cost.backward += gradient.shape[1]
