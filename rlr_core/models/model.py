"""What the trainer needs of a checkpoint, whatever family it is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from rlr_core.chain import Denoiser, Schedule


class Model(Protocol):
    """A frozen checkpoint."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def unet(self) -> Any:
        """The denoising network."""
        ...

    @property
    def networks(self) -> Mapping[str, Any]:
        """What a LoRA can be injected into: "unet", "text_encoder" and, where there is a second one, "text_encoder_2"."""
        ...

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """Of diffusers' scheduler: the noise schedule that the network was trained with."""
        ...

    @property
    def vae(self) -> Any:
        """What makes pictures of latents."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        ...

    def schedule(self, steps: int) -> Schedule:
        """The noise levels of a chain of `steps` steps. Raises `ConfigError`."""
        ...

    def denoiser(self, guidance_scale: float) -> Denoiser:
        """The network, guided."""
        ...

    def encode(self, prompts: Sequence[str], negative: str) -> dict[str, Tensor]:
        """The denoiser's conditioning, each tensor with B rows."""
        ...

    def tokenize(self, prompts: Sequence[str], negative: str) -> dict[str, Tensor]:
        """What `embed` makes `encode`'s tensors of: token numbers under the same kind of names, each with B rows."""
        ...

    def embed(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The denoiser's conditioning; differentiable in the text encoder's parameters."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) → images (B, 3, H, W), range [0, 1]; differentiable."""
        ...

    def latent_shape(self, size: int) -> tuple[int, ...]:
        """(C, h, w) of pictures of `size` pixels; 0 is the checkpoint's own size. Raises `ConfigError`."""
        ...

    def lora_metadata(self) -> dict[str, str]:
        """For the metadata of a LoRA file: which model it belongs to."""
        ...
