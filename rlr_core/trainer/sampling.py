"""Pictures, with a seed each: from the chain, or from a sampler that the model offers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlr_core.chain import Chain, Conditioning, SampleNoise, Schedule, initial_latents, rollout
from rlr_core.config import InferenceConfig, SamplingConfig, Size
from rlr_core.dcot import Shown, StagePrompts, StageSettings
from rlr_core.errors import ConfigError
from rlr_core.models import Model, Prompted, Sampler, prompted
from rlr_core.rewards import Pictures, Reward, Scores, alike, assembled


@dataclass(frozen=True)
class Canvas:
    """What pictures of one size are painted on.

    Attributes:
        size: width and height; None is the model's own.
        latent_shape: of one latent, as (C, h, w).
        schedule: the chain's noise levels, which may depend on the size.
        sampler: instead of the chain, for pictures that are only looked at.
    """

    size: Size | None
    latent_shape: tuple[int, ...]
    schedule: Schedule
    sampler: Sampler | None = None

    def noise(self, seeds: Sequence[int], device: torch.device) -> SampleNoise:
        """Of pictures with these seeds."""
        return SampleNoise(seeds, self.latent_shape, torch.float32, device)


def canvas(model: Model, steps: int, size: Size | None, sampler: str = "chain") -> Canvas:
    """For chains, or a sampler, of `steps` steps. Raises `ConfigError` for what the model cannot do."""
    painted = None if sampler == "chain" else _sampler(model, sampler, steps, size)
    return Canvas(size, model.latent_shape(size), model.schedule(steps, size), painted)


def _sampler(model: Model, name: str, steps: int, size: Size | None) -> Sampler:
    if name not in model.samplers:
        raise ConfigError(
            f"inference.sampler = '{name}' with the model {model.name}",
            f"one of {', '.join(('chain', *model.samplers))}",
            "set inference.sampler",
        )
    return model.sampler(name, steps, size)


@dataclass(frozen=True)
class Painter:
    """A model with everything that pictures depend on, but prompts and seeds.

    Attributes:
        prompted: the guided denoiser and its conditioning.
        sampling: steps, η and sizes.
        canvases: of the sizes that pictures have in turn.
        stages: what is said of the stages of all prompts.
        view: guidance scale → the same with another one.
        sampler: by name; "chain" is as in training.
        together: pictures that are painted at a time.
    """

    model: Model
    prompted: Prompted
    sampling: SamplingConfig
    canvases: Sequence[Canvas]
    stages: StageSettings
    view: Callable[[float], Prompted]
    sampler: str = "chain"
    together: int = 8

    def __call__(self, prompts: Sequence[StagePrompts], seeds: Sequence[int]) -> Pictures:
        """One picture for each (prompt, seed), (N, 3, H, W), range [0, 1], on the CPU; the sizes come in turn.

        What a prompt says of how it is shown (`rlr_core.dcot.switches`) goes before the painter's settings, but for the seed.
        """
        pictures: dict[int, Tensor] = {}
        for numbers, painted in self.groups(prompts, seeds):
            pictures |= dict(zip(numbers, painted, strict=True))
        return in_order(pictures)

    def groups(
        self, prompts: Sequence[StagePrompts], seeds: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], Tensor]]:
        """The same as they are painted, some of one size at a time, with their numbers; none before it is asked for."""
        for (turn, own), numbers in self._alike(prompts).items():
            brush, mine = self.showing(own, turn)
            for first in range(0, len(numbers), self.together):
                chosen = numbers[first : first + self.together]
                yield chosen, brush._group(mine, [prompts[j] for j in chosen], [seeds[j] for j in chosen])

    def _alike(self, prompts: Sequence[StagePrompts]) -> dict[tuple[int, Shown], list[int]]:
        """Numbers of the prompts that are painted with the same settings."""
        found: dict[tuple[int, Shown], list[int]] = {}
        for turn in range(len(self.canvases)):
            for number in range(turn, len(prompts), len(self.canvases)):
                own = dataclasses.replace(prompts[number].shown, seed=None)
                found.setdefault((turn, own), []).append(number)
        return found

    def showing(self, own: Shown, turn: int = 0) -> tuple[Painter, Canvas]:
        """Who paints a prompt that is shown in its own way, and on what. Raises `ConfigError` for what the model cannot do."""
        mine = self.canvases[turn]
        brush = self
        if own.guidance_scale is not None:
            brush = dataclasses.replace(self, prompted=self.view(own.guidance_scale))
        if own.steps is None and own.size is None:
            return brush, mine
        return brush, canvas(
            self.model, own.steps or self.sampling.steps, own.size or mine.size, self.sampler
        )

    @torch.no_grad()
    def _group(self, canvas: Canvas, prompts: Sequence[StagePrompts], seeds: Sequence[int]) -> Tensor:
        return self.model.decode(self._latents(canvas, prompts, seeds)).cpu()

    def _latents(self, canvas: Canvas, prompts: Sequence[StagePrompts], seeds: Sequence[int]) -> Tensor:
        noise, denoiser, sampler = (
            canvas.noise(seeds, self.model.device),
            self.prompted.denoiser,
            canvas.sampler,
        )
        if sampler is not None:
            conditioning = self._conditioning(prompts, sampler.schedule)
            return sampler(denoiser, conditioning, noise.initial(), seeds)
        conditioning = self._conditioning(prompts, canvas.schedule)
        chain = Chain(denoiser, canvas.schedule, conditioning, noise, self.sampling.eta)
        everyone = torch.arange(len(seeds))
        return rollout(chain, initial_latents(chain), everyone, range(canvas.schedule.steps))[0]

    def _conditioning(self, prompts: Sequence[StagePrompts], schedule: Schedule) -> Conditioning:
        return self.prompted.conditioning([self.stages.schedule(prompt, schedule) for prompt in prompts])


def in_order(pictures: Mapping[int, Tensor]) -> Pictures:
    """Number → picture (3, …), as they are counted from 0."""
    return assembled([pictures[number] for number in range(len(pictures))])


def painter(
    model: Model,
    sampling: SamplingConfig,
    inference: InferenceConfig | None = None,
    *,
    stages: StageSettings | None = None,
    encode_anew: bool = False,
) -> Painter:
    """A `Painter` with the settings of `inference` on top of the training chain's. Raises `ConfigError`.

    Args:
        stages: what is said of the stages of all prompts, and the negative prompt.
        encode_anew: the text encoder has a LoRA (see `prompted`).
    """
    inference = inference or InferenceConfig()
    steps, guidance = inference.steps or sampling.steps, inference.guidance_scale or sampling.guidance_scale
    settled = dataclasses.replace(sampling, steps=steps, guidance_scale=guidance)
    canvases = [canvas(model, steps, size, inference.sampler) for size in sampling.sizes]

    def view(scale: float) -> Prompted:
        return prompted(model, scale, encode_anew=encode_anew)

    return Painter(
        model, view(guidance), settled, canvases, stages or StageSettings(), view, inference.sampler
    )


def score(reward: Reward, images: Pictures, prompts: Sequence[str], *, chunk: int = 16) -> Scores:
    """What the reward measures on N pictures, (N,) each, on the CPU; `chunk` of one size at a time."""
    numbers, measured = [], []
    for chosen, pictures in alike(images, chunk):
        numbers += chosen
        measured.append(reward.measure(pictures, [prompts[j] for j in chosen]))
    order = torch.tensor(numbers).argsort()
    parts = {name: _on_cpu([scores.parts[name] for scores in measured])[order] for name in measured[0].parts}
    return Scores(_on_cpu([scores.total for scores in measured])[order], parts)


def _on_cpu(scores: Sequence[Tensor]) -> Tensor:
    return torch.cat([values.float().cpu() for values in scores])
