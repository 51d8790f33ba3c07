"""What the trainer needs of a checkpoint, whatever family it is of."""

from __future__ import annotations

from collections.abc import Sequence
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
        """The network that a LoRA is injected into."""
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

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) → images (B, 3, H, W), range [0, 1]; differentiable."""
        ...

    def latent_shape(self, size: int) -> tuple[int, ...]:
        """(C, h, w) of pictures of `size` pixels; 0 is the checkpoint's own size. Raises `ConfigError`."""
        ...

    def lora_metadata(self) -> dict[str, str]:
        """For the metadata of a LoRA file: which model it belongs to."""
        ...
