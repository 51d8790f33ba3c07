"""Stable Diffusion 1.x, 2.x (arXiv 2112.10752) and XL (arXiv 2307.01952), as the chain sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Denoiser, Guided, Level, Prediction, Schedule, variance_preserving
from rlr_core.config import Size
from rlr_core.errors import ConfigError
from rlr_core.families import Component, LoraFamily, Role, StableDiffusionFamily
from rlr_core.models.samplers import SAMPLERS, DiffusersSampler, diffusers_sampler
from rlr_core.models.stable_diffusion.savings import SAVINGS
from rlr_core.models.stable_diffusion.text_conditioning import TextConditioning

PREDICTIONS: dict[str, Callable[[Tensor, Tensor, Level], Prediction]] = {
    "epsilon": Prediction.from_noise,
    "v_prediction": Prediction.from_velocity,
    "sample": Prediction.from_sample,
}
"""What the scheduler's config says that the UNet predicts → x̂ and ε̂."""


Extras = Callable[[Tensor, Mapping[str, Tensor]], dict[str, Tensor]]
"""Latents (B, C, h, w) and conditioning → diffusers' `added_cond_kwargs`."""


@dataclass(frozen=True)
class UNetDenoiser:
    """A diffusers UNet behind the denoiser protocol; it computes in its own dtype, the chain in that of x.

    Attributes:
        unet: a `UNet2DConditionModel`.
        prediction_type: a key of `PREDICTIONS`.
        extras: further conditioning, for networks that take any.
    """

    unet: Any
    prediction_type: str
    extras: Extras = lambda x, conditioning: {}

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        """Predict from `x` (B, C, h, w), each sample at its own timestep; conditioning: "text" (B, L, D), and "pooled"."""
        dtype = self.unet.conv_out.weight.dtype  # `unet.dtype` would look at all parameters
        time, text = level.time.to(x.device), conditioning["text"].to(x.device, dtype)
        extras = {name: value.to(x.device) for name, value in self.extras(x, conditioning).items()}
        output = self.unet(
            x.to(dtype), time, encoder_hidden_states=text, added_cond_kwargs=extras, return_dict=False
        )[0]
        return PREDICTIONS[self.prediction_type](x, output.to(x.dtype), level)


@dataclass(frozen=True)
class SizeAndPooledText:
    """What the XL UNet is told beside the text (arXiv 2307.01952, 2.2): the pooled text, and that the picture is whole and as
    large as it is: (height, width, 0, 0, height, width).
    """

    pixels_per_latent: int

    def __call__(self, x: Tensor, conditioning: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """ "text_embeds" (B, P) and "time_ids" (B, 6)."""
        height, width = (side * self.pixels_per_latent for side in x.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
        return {"text_embeds": conditioning["pooled"], "time_ids": sizes.expand(len(x), -1)}


class StableDiffusion:
    """A frozen Stable Diffusion checkpoint, 1.x, 2.x or XL; see `Model`.

    Attributes:
        name: of the checkpoint, for people.
        family: which of them.
        unet: the denoising network.
        vae: what makes pictures of latents.
        tokens: the text models, which a LoRA can be trained in.
    """

    samplers = tuple(SAMPLERS)
    savings = ("autocast", "checkpoint_denoiser", "decoder", "offload")

    def __init__(
        self,
        *,
        name: str,
        family: StableDiffusionFamily,
        unet: Any,
        vae: Any,
        text: TextConditioning,
        scheduler: Any,
    ):
        self.name = name
        self.family = family
        self.unet = unet
        self.vae = vae
        self.tokens = text
        self._scheduler = scheduler

    @property
    def lora_family(self) -> LoraFamily:
        """What LoRA files know of the family."""
        return self.family.lora

    @property
    def components(self) -> list[Component]:
        """The UNet, the text models and the VAE."""
        texts = [
            Component(name, Role.TEXT_ENCODER, network) for name, network in self.tokens.networks.items()
        ]
        return [
            Component("unet", Role.DENOISER, self.unet),
            *texts,
            Component("vae", Role.DECODER, self.vae),
        ]

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return self.unet.device

    @property
    def pixels_per_latent(self) -> int:
        """The VAE's downsampling factor f."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: "epsilon", "v_prediction" or "sample"."""
        return self._scheduler.config.prediction_type

    def schedule(self, steps: int, size: Size | None = None) -> Schedule:
        """The levels that `diffusers.DDIMScheduler` visits with the checkpoint's scheduler config, the same for all sizes.

        Raises `ConfigError` for more steps than the model has training timesteps.
        """
        timesteps, trained = self._timesteps(steps), self._scheduler.config.num_train_timesteps
        beyond = int(timesteps[-1]) - trained // steps
        cumulative = self._scheduler.alphas_cumprod
        final = cumulative[beyond] if beyond >= 0 else self._scheduler.final_alpha_cumprod
        return variance_preserving(cumulative, timesteps, float(final))

    def _timesteps(self, steps: int) -> Tensor:
        """(T,) integers, falling."""
        trained = self._scheduler.config.num_train_timesteps
        if 1 <= steps <= trained:
            self._scheduler.set_timesteps(steps)
            timesteps = self._scheduler.timesteps.clone()
            if len(timesteps) == steps and timesteps[0] < trained:
                return timesteps
        got = f"sampling.steps = {steps} for a checkpoint with {trained} training timesteps"
        raise ConfigError(got, "far fewer steps, such as 20 or 50", "lower sampling.steps")

    def sampler(self, name: str, steps: int, size: Size | None = None) -> DiffusersSampler:
        """One of diffusers', over the noise levels that the UNet was trained with. Raises `ConfigError`."""
        return diffusers_sampler(name, self._scheduler.config, steps)

    def denoiser(self, guidance_scale: float) -> Denoiser:
        """The UNet with classifier-free guidance."""
        network = UNetDenoiser(self.unet, self.prediction_type)
        if self.unet.config.addition_embed_type == "text_time":
            network = replace(network, extras=SizeAndPooledText(self.pixels_per_latent))
        return Guided(network, guidance_scale)

    def encode(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Tensor]:
        """The denoiser's conditioning, without gradient: "text" (B, L, D), in XL "pooled" (B, P), and both as "negative_…".

        A text is encoded once and remembered. Warns where one is too long, naming the words that are lost.
        """
        return self.tokens.encode(prompts, negatives)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) → images (B, 3, H, W), float32, range [0, 1]; differentiable.

        Values beyond [0, 1] are clamped, as in diffusers, and their gradient is 0: it is the exact gradient
        of what the reward is shown, which is also what likelihood-ratio and zeroth-order estimators estimate.
        """
        decoded = self.vae.decode(self._unscaled(latents).to(self.vae.dtype), return_dict=False)[0].float()
        return (decoded * 0.5 + 0.5).clamp(0, 1)

    def _unscaled(self, latents: Tensor) -> Tensor:
        """The VAE's own latents; some VAEs have a mean and a spread for each channel (diffusers' XL pipeline)."""
        config = self.vae.config
        if not config.latents_mean:
            return latents / config.scaling_factor
        mean, spread = (
            torch.tensor(values).view(1, -1, 1, 1).to(latents)
            for values in (config.latents_mean, config.latents_std)
        )
        return latents * spread / config.scaling_factor + mean

    def latent_shape(self, size: Size | None) -> tuple[int, int, int]:
        """(C, h, w) of pictures of that size; None is the checkpoint's own. Raises `ConfigError`."""
        factor, channels = self.pixels_per_latent, self.vae.config.latent_channels
        if size is None:
            return channels, *self._own_latent_size()
        if any(side < 1 or side % factor for side in size):
            near = [max(1, round(side / factor)) * factor for side in size]
            raise ConfigError(
                f"sampling.size = {size[0]} × {size[1]}",
                f"multiples of {factor} pixels",
                f"set sampling.size = {near if near[0] != near[1] else near[0]}",
            )
        width, height = size
        return channels, height // factor, width // factor

    def _own_latent_size(self) -> tuple[int, int]:
        """Height and width."""
        size = self.unet.config.sample_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def saving(self, setting: str, value: Any) -> AbstractContextManager[None]:
        """See `Model.saving`."""
        return SAVINGS[setting](self.unet, self.vae, value)

    def lora_metadata(self) -> dict[str, str]:
        """For the metadata of a LoRA file: which model it belongs to (sd-scripts, ModelSpec 1.0.1)."""
        height, width = (side * self.pixels_per_latent for side in self._own_latent_size())
        return {
            "ss_sd_model_name": self.name,
            "modelspec.resolution": f"{width}x{height}",
            **self.lora_family.metadata(self.prediction_type),
        }
