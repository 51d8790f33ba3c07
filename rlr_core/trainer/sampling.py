"""Pictures, with a seed each: from the chain, or from a sampler of diffusers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlr_core.chain import Chain, Conditioning, SampleNoise, initial_latents, rollout
from rlr_core.config import InferenceConfig, SamplingConfig
from rlr_core.estimators import RewardFunction
from rlr_core.models import Model, Prompted, prompted
from rlr_core.models.samplers import scheduler, walk


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

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """One picture for each (prompt, seed), (N, 3, H, W), range [0, 1], on the CPU."""
        pictures = []
        for first in range(0, len(prompts), self.together):
            mine, rows = prompts[first : first + self.together], seeds[first : first + self.together]
            latents = self._latents(self.prompted.encode(mine, self.negative), rows)
            pictures.append(self.model.decode(latents).cpu())
        return torch.cat(pictures)

    def _latents(self, conditioning: dict[str, Tensor], seeds: Sequence[int]) -> Tensor:
        steps, shape = self.sampling.steps, self.model.latent_shape(self.sampling.size)
        noise = SampleNoise(seeds, shape, torch.float32, self.model.device)
        if self.sampler != "chain":
            sampler = scheduler(self.sampler, self.model.scheduler_config, steps)
            return walk(sampler, self.prompted.denoiser, conditioning, noise.initial(), seeds)
        constant = Conditioning.constant(conditioning, steps)
        chain = Chain(self.prompted.denoiser, self.model.schedule(steps), constant, noise, self.sampling.eta)
        return rollout(chain, initial_latents(chain), torch.arange(len(seeds)), range(steps))[0]


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


@torch.no_grad()
def score(reward: RewardFunction, images: Tensor, prompts: Sequence[str], *, chunk: int = 16) -> Tensor:
    """Scores (N,) of pictures (N, 3, H, W), on the CPU; `chunk` of them at a time."""
    parts = [
        reward(images[first : first + chunk], list(prompts[first : first + chunk])).float().cpu()
        for first in range(0, len(prompts), chunk)
    ]
    return torch.cat(parts)
