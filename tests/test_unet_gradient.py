"""Full back-propagation and likelihood ratios agree on a small UNet with a LoRA, within standard errors.

Means over independent batches are compared along the gradient and along fixed random directions. All
comparisons of this module together fail by chance with probability `FALSE_FAILURE`; the seeds are fixed, so
that the chance is taken once. `resolution` is the error of scale that is found out at this number of samples,
with a probability above 99%: 15% for RLR, more for the noisier estimators. (5% is shown on the
linear-Gaussian chain of `test_estimators_exact.py`.)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from checks import student_limit
from torch import Tensor

from rlr_core.chain import BatchNoise, Conditioning, Guided, Level, Prediction, variance_preserving
from rlr_core.config import EstimatorConfig
from rlr_core.estimators import Batch, Problem, build

FALSE_FAILURE, COMPARISONS, SIZE = 1e-3, 9, 512
RLR = {"first_order_steps": 3, "sub_chain_length": 2}
STEPS, LATENT, TOKENS, WIDTH = 6, (1, 4, 4), 2, 8


@dataclass(frozen=True)
class UNetDenoiser:
    """A diffusers UNet that predicts ε; its timesteps are those of the schedule."""

    unet: Any

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        noise = self.unet(x, level.time, encoder_hidden_states=conditioning["text"]).sample
        return Prediction.from_noise(x, noise, level)


@dataclass(frozen=True)
class SmoothReward:
    """Brightness, bent a little."""

    name: str = "smooth"
    differentiable: bool = True

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        brightness = images.flatten(1).mean(1)
        return brightness + brightness.square()


@functools.cache
def unet_problem() -> Problem:
    """T = 6, η = 1, guidance 2, float32, a LoRA of rank 1 at a random point that is not 0."""
    pytest.importorskip("diffusers")
    peft = pytest.importorskip("peft")
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=LATENT[1], in_channels=LATENT[0], out_channels=LATENT[0], block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
        layers_per_block=1, cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=4,
    ).requires_grad_(False)  # fmt: skip
    unet.add_adapter(peft.LoraConfig(r=1, lora_alpha=1, target_modules=["attn2.to_v", "attn2.to_out.0"]))
    parameters = [p for name, p in unet.named_parameters() if "lora_" in name]
    with torch.no_grad():
        for p in parameters:
            p.copy_(torch.randn_like(p) * 0.3)
    cumulative = torch.tensor([0.05, 0.15, 0.3, 0.45, 0.6, 0.8], dtype=torch.float32)
    schedule = variance_preserving(cumulative, torch.arange(STEPS), 0.99)
    denoiser = Guided(UNetDenoiser(unet.eval()), 2.0)
    return Problem(denoiser, schedule, torch.sigmoid, SmoothReward(), parameters)


def unet_batch(size: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    texts = torch.randn(2, 2, TOKENS, WIDTH, generator=generator, dtype=torch.float32)
    rows = torch.arange(size) % 2
    conditioning = {"text": texts[0, rows], "negative_text": texts[1, rows]}
    prompts = ["a" if row == 0 else "b" for row in rows.tolist()]
    noise = BatchNoise(seed, (size, *LATENT), torch.float32)
    return Batch(prompts, Conditioning.constant(conditioning, STEPS), noise, seed)


def replicates(count: int, seed: int, **settings: Any) -> Tensor:
    """Estimates from `count` batches of `SIZE` pictures, (count, P) in double precision."""
    estimator = build(EstimatorConfig(chunk=SIZE, **settings), STEPS)
    estimator.check(unet_problem(), SIZE)
    return torch.stack(
        [estimator(unet_problem(), unet_batch(SIZE, seed + k)).gradient.double() for k in range(count)]
    )


@functools.cache
def full_gradients() -> Tensor:
    return replicates(30, 0, name="full_bp")


@dataclass(frozen=True)
class Agreement:
    """Scores of the difference of two means, one for each direction, and the relative standard error."""

    scores: Tensor
    limit: float
    error: float

    @property
    def differs(self) -> bool:
        return not bool(self.scores.abs().max() <= self.limit)


def agreement(estimates: Tensor, reference: Tensor) -> Agreement:
    """Welch's t along the reference's mean and two random directions, with the fewer degrees of freedom."""
    mean = reference.mean(0)
    random = torch.randn(2, len(mean), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    directions = torch.cat([mean[None], random])
    directions = directions / directions.norm(dim=1, keepdim=True)
    a, b = estimates @ directions.T, reference @ directions.T
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    limit = student_limit(FALSE_FAILURE / COMPARISONS, min(len(a), len(b)) - 1)
    return Agreement((a.mean(0) - b.mean(0)) / error, limit, float(error[0] / mean.norm()))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("count", "resolution", "settings"),
    [
        (30, 0.15, {"name": "rlr", **RLR}),
        (16, 0.25, {"name": "half", "sub_chain_length": 2}),
        (24, 0.5, {"name": "reinforce"}),
    ],
    ids=["rlr", "half", "reinforce"],
)
def test_estimators_agree_with_full_back_propagation(
    count: int, resolution: float, settings: dict[str, Any]
) -> None:
    estimates = replicates(count, 10_000, **settings)
    right = agreement(estimates, full_gradients())
    wrong = agreement((1 + resolution) * estimates, full_gradients())
    assert not right.differs, right
    assert resolution > (right.limit + 2.4) * wrong.error, f"too few samples to see {resolution:.0%}: {wrong}"
    assert wrong.differs, f"an estimator that is {resolution:.0%} too long passes: {wrong}"


@pytest.mark.slow
def test_truncated_back_propagation_is_told_from_the_full_one() -> None:
    """The comparison finds a real bias, too."""
    truncated = replicates(8, 20_000, name="draft", first_order_steps=3)
    assert agreement(truncated, full_gradients()).differs
