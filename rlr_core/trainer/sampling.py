"""Pictures, with a seed each: from the chain, or from a sampler that the model offers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlr_core.chain import Chain, SampleNoise, Schedule, rollout
from rlr_core.config import InferenceConfig, SamplingConfig, Size
from rlr_core.errors import ConfigError
from rlr_core.models import Model, Prompted, Sampler, prompted
from rlr_core.rewards import Reward, Scores


@dataclass(frozen=True)
class Canvas:
    """What pictures of one size are painted on.

    Attributes:
        size: width and height; None is the model's own.
        latent_shape: of one latent, as (C, h, w).
        schedule: the chain's noise levels, which may depend on the size.
    """

    size: Size | None
    latent_shape: tuple[int, ...]
    schedule: Schedule

    def noise(self, seeds: Sequence[int], device: torch.device) -> SampleNoise:
        """Of pictures with these seeds."""
        return SampleNoise(seeds, self.latent_shape, torch.float32, device)


def canvas(model: Model, steps: int, size: Size | None) -> Canvas:
    """For chains of `steps` steps. Raises `ConfigError` for what the model cannot do."""
    return Canvas(size, model.latent_shape(size), model.schedule(steps, size))


@dataclass(frozen=True)
class Painter:
    """A model with everything that pictures depend on, but prompts and seeds.

    Attributes:
        prompted: the guided denoiser and its conditioning.
        sampling: steps, η and size.
        canvas: of the size that pictures have.
        sampler: instead of the chain.
        together: pictures that are painted at a time.
    """

    model: Model
    prompted: Prompted
    sampling: SamplingConfig
    canvas: Canvas
    sampler: Sampler | None = None
    together: int = 8

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """One picture for each (prompt, seed), (N, 3, H, W), range [0, 1], on the CPU."""
        return torch.cat(list(self.groups(prompts, seeds)))

    def groups(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Tensor]:
        """The same pictures, those that are painted together at a time; none is painted before it is asked for."""
        for first in range(0, len(prompts), self.together):
            yield self._group(prompts[first : first + self.together], seeds[first : first + self.together])

    @torch.no_grad()
    def _group(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        return self.model.decode(self._latents(prompts, seeds)).cpu()

    def _latents(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        noise, denoiser = self.canvas.noise(seeds, self.model.device), self.prompted.denoiser
        if self.sampler is not None:
            conditioning = self.prompted.conditioning(prompts, self.sampler.schedule)
            return self.sampler(denoiser, conditioning, noise.initial(), seeds)
        schedule = self.canvas.schedule
        conditioning = self.prompted.conditioning(prompts, schedule)
        chain = Chain(denoiser, schedule, conditioning, noise, self.sampling.eta)
        return rollout(chain, noise.initial(), torch.arange(len(seeds)), range(schedule.steps))[0]


def painter(
    model: Model,
    sampling: SamplingConfig,
    inference: InferenceConfig | None = None,
    *,
    negative: str = "",
    encode_anew: bool = False,
) -> Painter:
    """A `Painter` with the settings of `inference` on top of the training chain's. Raises `ConfigError`.

    Args:
        encode_anew: the text encoder has a LoRA (see `prompted`).
    """
    inference = inference or InferenceConfig()
    steps, guidance = inference.steps or sampling.steps, inference.guidance_scale or sampling.guidance_scale
    settled = dataclasses.replace(sampling, steps=steps, guidance_scale=guidance)
    size = sampling.sizes[0]
    sampler = None if inference.sampler == "chain" else _sampler(model, inference.sampler, steps, size)
    view = prompted(model, guidance, negative, encode_anew=encode_anew)
    return Painter(model, view, settled, canvas(model, steps, size), sampler)


def _sampler(model: Model, name: str, steps: int, size: Size | None) -> Sampler:
    if name not in model.samplers:
        raise ConfigError(
            f"inference.sampler = '{name}' with the model {model.name}",
            f"one of {', '.join(('chain', *model.samplers))}",
            "set inference.sampler",
        )
    return model.sampler(name, steps, size)


def score(reward: Reward, images: Tensor, prompts: Sequence[str], *, chunk: int = 16) -> Scores:
    """What the reward measures on pictures (N, 3, H, W), (N,) each, on the CPU; `chunk` of them at a time."""
    measured = [
        reward.measure(images[first : first + chunk], prompts[first : first + chunk])
        for first in range(0, len(prompts), chunk)
    ]
    parts = {name: _on_cpu([scores.parts[name] for scores in measured]) for name in measured[0].parts}
    return Scores(_on_cpu([scores.total for scores in measured]), parts)


def _on_cpu(scores: Sequence[Tensor]) -> Tensor:
    return torch.cat([values.float().cpu() for values in scores])
