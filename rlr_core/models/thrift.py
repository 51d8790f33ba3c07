"""Settings that make a model need less memory, put onto its networks once they are loaded.

None changes what the model is; autocast rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from rlr_core.config import MemoryConfig
from rlr_core.models.model import Model


@dataclass
class Guests:
    """Networks that are on the card only while they are used: they come when they are called, and `leave` together.

    A network whose graph is still waiting for its backward pass must not leave.
    """

    device: torch.device
    present: list[Any] = field(default_factory=list)

    def invited(self, networks: Sequence[Any], function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, which `networks` come for."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for network in networks:
                if network not in self.present:
                    self.present.append(network.to(self.device))
            return function(*args, **kwargs)

        return call

    def leave(self) -> None:
        """To main memory, all of them."""
        while self.present:
            self.present.pop().to("cpu")


def save_memory(model: Model, settings: MemoryConfig, guests: Guests) -> None:
    """Put `settings` onto the model's networks; the text encoders and the reward are the trainer's matter."""
    unet, vae = model.unet, model.vae
    if settings.checkpoint_unet:
        unet.enable_gradient_checkpointing()
    if settings.autocast != "off":
        unet.forward = _autocasting(unet.forward, model.device.type, getattr(torch, settings.autocast))
    if settings.decoder != "keep":
        _run_again(vae, settings.decoder)
    if settings.offload == "all":
        vae.to("cpu")
        vae.decode = guests.invited([vae], vae.decode)
        unet.forward = _alone(unet.forward, guests)


def _autocasting(forward: Callable[..., Any], device: str, dtype: torch.dtype) -> Callable[..., Any]:
    """`forward` under torch's autocast. `meta` has none of its own: there the CPU's switch stands for it."""

    @wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu" if device == "meta" else device, dtype):
            return forward(*args, **kwargs)

    return call


def _alone(forward: Callable[..., Any], guests: Guests) -> Callable[..., Any]:
    """`forward`, before which all guests leave."""

    @wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        guests.leave()
        return forward(*args, **kwargs)

    return call


def _run_again(vae: Any, how: str) -> None:
    """Let the decoder forget what is inside its blocks and, in "slices", all but the latents of each call."""
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D

    for block in vae.decoder.modules():
        if isinstance(block, ResnetBlock2D | Attention | Upsample2D):
            block.forward = _forgetting(block.forward)
    if how == "slices":
        vae.decoder.forward = _forgetting(vae.decoder.forward)
        vae.enable_slicing()


def _forgetting(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward`, run again on the way back."""
    return partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
