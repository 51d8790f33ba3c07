"""What the trainer needs of a model, whatever family it is of and whoever loaded it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rlr_core.chain import Conditioning, Denoiser, Schedule
from rlr_core.config import Size
from rlr_core.families import Component, LoraFamily, Role


class TokenEncoder(Protocol):
    """Text encoders that can be trained: prompts become token numbers once, and those conditioning at every step."""

    def tokenize(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
        """Of B prompts and B negative prompts whole numbers, each tensor with B rows, for `embed`."""
        ...

    def embed(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the model's `encode` gives, of what `tokenize` gave; differentiable in the text encoders' parameters."""
        ...


class Sampler(Protocol):
    """Paints finished pictures by other steps than the chain's."""

    @property
    def schedule(self) -> Schedule:
        """The levels at which it asks the denoiser."""
        ...

    def __call__(
        self, denoiser: Denoiser, conditioning: Conditioning, noise: Tensor, seeds: Sequence[int]
    ) -> Tensor:
        """From `noise` (B, …), standard normal, to finished latents (B, …); `seeds` (B of them) are of noise on the way."""
        ...


class Model(Protocol):
    """A frozen model: a denoiser with its schedule, what makes conditioning of texts, and a decoder.

    Who guides is the model's own affair: `denoiser` gives one that is guided already.
    """

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def lora_family(self) -> LoraFamily:
        """What LoRA files know of its family."""
        ...

    @property
    def components(self) -> Sequence[Component]:
        """Its networks with their roles; what is frozen in a host, and not to be seen, is left out."""
        ...

    @property
    def device(self) -> torch.device:
        """Where latents are, and where the denoiser computes."""
        ...

    def schedule(self, steps: int, size: Size | None) -> Schedule:
        """The noise levels of a chain of `steps` steps for pictures of that size. Raises `ConfigError`."""
        ...

    def denoiser(self, guidance_scale: float) -> Denoiser:
        """The denoiser, guided."""
        ...

    def encode(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
        """The denoiser's conditioning of B prompts and B negative prompts, without gradient, each tensor with B rows."""
        ...

    @property
    def tokens(self) -> TokenEncoder | None:
        """The text encoders, where a LoRA can be trained in them; else None."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, …) → pictures (B, 3, H, W) or videos (B, 3, F, H, W), range [0, 1]; differentiable."""
        ...

    def latent_shape(self, size: Size | None) -> tuple[int, ...]:
        """Of one latent of pictures of that size, as (C, h, w); None is the model's own size. Raises `ConfigError`."""
        ...

    @property
    def samplers(self) -> Sequence[str]:
        """The names that `sampler` takes."""
        ...

    def sampler(self, name: str, steps: int, size: Size | None) -> Sampler:
        """The sampler of that name with `steps` steps. Raises `ConfigError`."""
        ...

    @property
    def savings(self) -> Sequence[str]:
        """Settings of [memory] that it takes: of "autocast", "checkpoint_denoiser", "decoder" and "offload"."""
        ...

    def saving(self, setting: str, value: Any) -> AbstractContextManager[None]:
        """Inside, its networks compute as `setting`, "checkpoint_denoiser" or "decoder", says; afterwards as before."""
        ...

    def lora_metadata(self) -> dict[str, str]:
        """For the metadata of a LoRA file: which model it belongs to."""
        ...


@dataclass(frozen=True)
class WrappedModel:
    """A model around another one, which it is in all that it does not replace."""

    model: Model

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def lora_family(self) -> LoraFamily:
        return self.model.lora_family

    @property
    def components(self) -> Sequence[Component]:
        return self.model.components

    @property
    def device(self) -> torch.device:
        return self.model.device

    def schedule(self, steps: int, size: Size | None) -> Schedule:
        return self.model.schedule(steps, size)

    def denoiser(self, guidance_scale: float) -> Denoiser:
        return self.model.denoiser(guidance_scale)

    def encode(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
        return self.model.encode(prompts, negatives)

    @property
    def tokens(self) -> TokenEncoder | None:
        return self.model.tokens

    def decode(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents)

    def latent_shape(self, size: Size | None) -> tuple[int, ...]:
        return self.model.latent_shape(size)

    @property
    def samplers(self) -> Sequence[str]:
        return self.model.samplers

    def sampler(self, name: str, steps: int, size: Size | None) -> Sampler:
        return self.model.sampler(name, steps, size)

    @property
    def savings(self) -> Sequence[str]:
        return self.model.savings

    def saving(self, setting: str, value: Any) -> AbstractContextManager[None]:
        return self.model.saving(setting, value)

    def lora_metadata(self) -> dict[str, str]:
        return self.model.lora_metadata()


def networks_of(model: Model, role: Role) -> list[Any]:
    """The model's networks of a role."""
    return [component.network for component in model.components if component.role == role]
