"""Pictures, with a seed each: from the chain, or from a sampler of diffusers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlr_core.chain import Chain, Conditioning, SampleNoise, rollout
from rlr_core.config import InferenceConfig, SamplingConfig
from rlr_core.models import Model, Prompted, prompted
from rlr_core.models.samplers import scheduler, walk
from rlr_core.rewards import Reward, Scores


@dataclass(frozen=True)
class Painter:
    """A model with everything that pictures depend on, but prompts and seeds.

    Attributes:
        prompted: the guided denoiser and what encodes prompts for it.
        sampling: steps, η and size.
        sampler: "chain", or a key of `SAMPLERS`.
        negative: the negative prompt.
        together: pictures that are painted at a time.
    """

    model: Model
    prompted: Prompted
    sampling: SamplingConfig
    sampler: str
    negative: str = ""
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
        latents = self._latents(self.prompted.encode(prompts, self.negative), seeds)
        return self.model.decode(latents).cpu()

    def _latents(self, conditioning: dict[str, Tensor], seeds: Sequence[int]) -> Tensor:
        steps, shape = self.sampling.steps, self.model.latent_shape(self.sampling.size)
        noise = SampleNoise(seeds, shape, torch.float32, self.model.device)
        if self.sampler != "chain":
            sampler = scheduler(self.sampler, self.model.scheduler_config, steps)
            return walk(sampler, self.prompted.denoiser, conditioning, noise.initial(), seeds)
        constant = Conditioning.constant(conditioning, steps)
        chain = Chain(self.prompted.denoiser, self.model.schedule(steps), constant, noise, self.sampling.eta)
        return rollout(chain, noise.initial(), torch.arange(len(seeds)), range(steps))[0]


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
    if inference.sampler == "chain":
        model.schedule(steps)
    else:
        scheduler(inference.sampler, model.scheduler_config, steps)
    view = prompted(model, guidance, encode_anew=encode_anew)
    return Painter(model, view, settled, inference.sampler, negative)


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
