"""The parts of a checkpoint, and the model that they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlr_core.errors import CheckpointError, ConfigError
from rlr_core.families import StableDiffusionFamily
from rlr_core.models.architecture import Request
from rlr_core.models.stable_diffusion.model import StableDiffusion
from rlr_core.models.stable_diffusion.prompt_encoder import PromptEncoder
from rlr_core.models.stable_diffusion.text_conditioning import TextConditioning


@dataclass(frozen=True)
class Parts:
    """What a folder or a file holds, loaded.

    Attributes:
        text_encoders: one for each of `tokenizers` and `pads`.
        pads: the number that fills up short texts; None is the tokenizer's own.
        scheduler: a `DDIMScheduler`: the noise levels that the UNet was trained with.
        zero_negative: whether an empty negative prompt is zeros.
    """

    family: StableDiffusionFamily
    unet: Any
    vae: Any
    text_encoders: list[Any]
    tokenizers: list[Any]
    pads: list[int | None]
    scheduler: Any
    zero_negative: bool


def assembled(parts: Parts, request: Request) -> StableDiffusion:
    """The model, on its device. Raises `ConfigError`, or `CheckpointError` for a VAE of other latents."""
    _refuse_unfit(parts)
    layer, device = _layer(parts, request.clip_skip), request.device
    normalised = not parts.family.is_xl
    encoders = [
        PromptEncoder(tokenizer, network.to(device), layer=layer, normalised=normalised, pad=pad)
        for tokenizer, network, pad in zip(parts.tokenizers, parts.text_encoders, parts.pads, strict=True)
    ]
    return StableDiffusion(
        name=request.name,
        family=parts.family,
        unet=parts.unet.to(device),
        vae=parts.vae.to(device),
        text=TextConditioning(encoders, zero_negative=parts.zero_negative),
        scheduler=parts.scheduler,
    )


def _refuse_unfit(parts: Parts) -> None:
    config, channels = parts.vae.config, parts.unet.config.in_channels
    means = [values for values in (config.latents_mean, config.latents_std) if values is not None]
    if (
        config.latent_channels != channels
        or any(len(values) != channels for values in means)
        or len(means) == 1
    ):
        raise CheckpointError(
            f"the VAE has {config.latent_channels} latent channels, with {[len(each) for each in means]} means and spreads",
            f"the UNet's {channels} channels, and a mean and a spread for each of them, or none",
            "choose a VAE of the checkpoint's family",
        )


def _layer(parts: Parts, clip_skip: int) -> int:
    """The layer of the text models as they are loaded, counted from the end."""
    cut = parts.family.layers_cut
    most = cut + min(model.config.num_hidden_layers for model in parts.text_encoders)
    chosen = clip_skip or parts.family.clip_skip
    if not cut < chosen <= most:
        raise ConfigError(
            f"model.clip_skip = {clip_skip} for {parts.family.title}",
            f"a number from {cut + 1} to {most}, or 0 for the checkpoint's own ({parts.family.clip_skip})",
            "set model.clip_skip = 0",
        )
    return chosen - cut
