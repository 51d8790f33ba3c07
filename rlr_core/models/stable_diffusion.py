"""Stable Diffusion 1.x and 2.x (arXiv 2112.10752), as the chain sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Denoiser, Guided, Level, Prediction, Schedule, variance_preserving
from rlr_core.errors import ConfigError
from rlr_core.models.prompt_encoder import PromptEncoder

PREDICTIONS: dict[str, Callable[[Tensor, Tensor, Level], Prediction]] = {
    "epsilon": Prediction.from_noise,
    "v_prediction": Prediction.from_velocity,
    "sample": Prediction.from_sample,
}
"""What the scheduler's config says that the UNet predicts → x̂ and ε̂."""


@dataclass(frozen=True)
class UNetDenoiser:
    """A diffusers UNet behind the denoiser protocol; it computes in its own dtype, the chain in that of x.

    Attributes:
        unet: a `UNet2DConditionModel`.
        prediction_type: a key of `PREDICTIONS`.
    """

    unet: Any
    prediction_type: str

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        """Predict from `x` (B, C, h, w), each sample at its own timestep; conditioning: "text" (B, L, D)."""
        dtype = self.unet.dtype
        time, text = level.time.to(x.device), conditioning["text"].to(x.device, dtype)
        output = self.unet(x.to(dtype), time, encoder_hidden_states=text, return_dict=False)[0]
        return PREDICTIONS[self.prediction_type](x, output.to(x.dtype), level)


class StableDiffusion:
    """A frozen Stable Diffusion checkpoint.

    Attributes:
        unet: the network that a LoRA is injected into.
        name: of the checkpoint, for people.
    """

    def __init__(self, *, name: str, unet: Any, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any):
        self.name = name
        self.unet = unet
        self._vae = vae
        self._scheduler = scheduler
        self._text_encoder = text_encoder
        self._encoder = PromptEncoder(tokenizer, text_encoder)

    @property
    def networks(self) -> dict[str, Any]:
        """What a LoRA can be injected into."""
        return {"unet": self.unet, "text_encoder": self._text_encoder}

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """Of diffusers' scheduler."""
        return self._scheduler.config

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return self.unet.device

    @property
    def pixels_per_latent(self) -> int:
        """The VAE's downsampling factor f."""
        return 2 ** (len(self._vae.config.block_out_channels) - 1)

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: "epsilon", "v_prediction" or "sample"."""
        return self._scheduler.config.prediction_type

    def schedule(self, steps: int) -> Schedule:
        """The levels that `diffusers.DDIMScheduler` visits with the checkpoint's scheduler config.

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

    def denoiser(self, guidance_scale: float) -> Denoiser:
        """The UNet with classifier-free guidance."""
        return Guided(UNetDenoiser(self.unet, self.prediction_type), guidance_scale)

    def encode(self, prompts: Sequence[str], negative: str) -> dict[str, Tensor]:
        """The denoiser's conditioning: "text" and "negative_text", each (B, L, D), without gradient.

        A text is encoded once and remembered. Warns where one is too long, naming the words that are lost.
        """
        return {"text": self._encoder(prompts), "negative_text": self._encoder([negative] * len(prompts))}

    def tokenize(self, prompts: Sequence[str], negative: str) -> dict[str, Tensor]:
        """ "text" and "negative_text", each (B, 2, L) whole numbers, for `embed`."""
        return {
            "text": self._encoder.tokenize(prompts),
            "negative_text": self._encoder.tokenize([negative] * len(prompts)),
        }

    def embed(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `encode` gives, with a gradient."""
        return {name: self._encoder.embed(value) for name, value in tokens.items()}

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) → images (B, 3, H, W), float32, range [0, 1]; differentiable.

        Values beyond [0, 1] are clamped, as in diffusers, and their gradient is 0: it is the exact gradient
        of what the reward is shown, which is also what likelihood-ratio and zeroth-order estimators estimate.
        """
        scaled = (latents / self._vae.config.scaling_factor).to(self._vae.dtype)
        decoded = self._vae.decode(scaled, return_dict=False)[0].float()
        return (decoded * 0.5 + 0.5).clamp(0, 1)

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """(C, h, w) of square pictures of `size` pixels; 0 is the checkpoint's own size."""
        factor, channels = self.pixels_per_latent, self._vae.config.latent_channels
        if size == 0:
            return channels, *self._own_latent_size()
        if size < 0 or size % factor:
            near = max(1, round(size / factor)) * factor
            raise ConfigError(
                f"sampling.size = {size}", f"a multiple of {factor} pixels", f"set sampling.size = {near}"
            )
        return channels, size // factor, size // factor

    def _own_latent_size(self) -> tuple[int, int]:
        size = self.unet.config.sample_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def lora_metadata(self) -> dict[str, str]:
        """For the metadata of a LoRA file: which model it belongs to (sd-scripts, ModelSpec 1.0.1)."""
        second = self.unet.config.cross_attention_dim == 1024
        velocity = self.prediction_type == "v_prediction"
        height, width = (side * self.pixels_per_latent for side in self._own_latent_size())
        architecture = "stable-diffusion-v1"
        if second:
            architecture = "stable-diffusion-v2-768-v" if velocity else "stable-diffusion-v2-512"
        return {
            "ss_sd_model_name": self.name,
            "ss_base_model_version": f"sd_{'v2' if second else 'v1'}{'_v' if velocity else ''}",
            "ss_v2": str(second),
            "modelspec.architecture": f"{architecture}/lora",
            "modelspec.resolution": f"{width}x{height}",
            "modelspec.prediction_type": "v" if velocity else "epsilon",
        }
