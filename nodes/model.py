"""ComfyUI's MODEL, CLIP and VAE as a `Model` of the core."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlr_core.chain import Denoiser, Schedule
from rlr_core.config import Size
from rlr_core.errors import ConfigError
from rlr_core.families import Component, LoraFamily, Role

from .denoiser import NEGATIVE, HostDenoiser
from .families import family_of
from .levels import schedule_of
from .texts import Texts


class HostModel:
    """See `Model`. To be used inside `training.held`, which loads the networks and makes them trainable.

    Args:
        name: for people.
        patcher: a MODEL.
        vae: a VAE.
        texts: all that the run will ask for.
        scheduler: ComfyUI's name of how the levels lie.
        noisy: whether the steps of its chains add noise.
    """

    tokens = None
    samplers = ()
    savings = ("checkpoint_denoiser",)

    def __init__(self, name: str, patcher: Any, vae: Any, texts: Texts, scheduler: str, *, noisy: bool):
        self.name = name
        self.family = family_of(patcher)
        self._patcher, self._vae, self._texts, self._scheduler = patcher, vae, texts, scheduler
        self._noisy = noisy

    @property
    def lora_family(self) -> LoraFamily:
        return self.family.lora

    @property
    def network(self) -> Any:
        """ComfyUI's denoising network."""
        return self._patcher.model.diffusion_model

    @property
    def components(self) -> list[Component]:
        return [Component(self.family.network, Role.DENOISER, self.network)]

    @property
    def device(self) -> torch.device:
        return self._patcher.load_device

    def schedule(self, steps: int, size: Size | None) -> Schedule:
        """What KSampler visits, the same for all sizes."""
        sampling = self._patcher.get_model_object("model_sampling")
        return schedule_of(sampling, self._scheduler, steps, noisy=self._noisy)

    def denoiser(self, guidance_scale: float) -> Denoiser:
        return HostDenoiser(self._patcher, guidance_scale, one_by_one=self.family.experimental)

    def encode(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
        negative = {NEGATIVE + name: value for name, value in self._texts.rows(negatives).items()}
        return {**self._texts.rows(prompts), **negative}

    def decode(self, latents: Tensor) -> Tensor:
        """As `VAEDecode`, with gradient; clamped values have none, as in the core's own models."""
        vae, raw = self._vae, self._patcher.model.process_latent_out(latents)
        decoded = vae.first_stage_model.decode(raw.to(vae.device, vae.vae_dtype)).float()
        return vae.process_output(decoded.clone()).to(latents.device)  # it works in place

    def latent_shape(self, size: Size | None) -> tuple[int, ...]:
        factor, side = self._vae.spacial_compression_decode(), self.family.side
        width, height = size or (side, side)
        if width < factor or height < factor or width % factor or height % factor:
            raise ConfigError(
                f"sampling.size = {width} × {height}", f"multiples of {factor} pixels", "change it"
            )
        return self._patcher.model.latent_format.latent_channels, height // factor, width // factor

    def sampler(self, name: str, steps: int, size: Size | None) -> Any:
        raise AssertionError("it offers none")

    @contextmanager
    def saving(self, setting: str, value: Any) -> Iterator[None]:
        """Run the network again on the way back, keeping only what went in."""
        assert setting == "checkpoint_denoiser"
        network, forward = self.network, self.network.forward
        network.forward = partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
        try:
            yield
        finally:
            del network.forward

    def lora_metadata(self) -> dict[str, str]:
        return {"ss_sd_model_name": self.name, **self.lora_family.metadata(None)}
