"""Ways to need less memory that are particular to diffusers' UNet and VAE; each is taken off again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint


@contextmanager
def _checkpointed(unet: Any, vae: Any, value: bool) -> Iterator[None]:
    """Gradient checkpointing of the UNet's blocks."""
    unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()


@contextmanager
def _decoder_run_again(unet: Any, vae: Any, how: str) -> Iterator[None]:
    """Let the decoder forget what is inside its blocks and, in "slices", all but the latents of each call."""
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D

    with ExitStack() as stack:
        for block in vae.decoder.modules():
            if isinstance(block, ResnetBlock2D | Attention | Upsample2D):
                stack.enter_context(_forgetting(block))
        if how == "slices":
            stack.enter_context(_forgetting(vae.decoder))
            stack.callback(vae.enable_slicing if vae.use_slicing else vae.disable_slicing)
            vae.enable_slicing()
        yield


@contextmanager
def _forgetting(block: Any) -> Iterator[None]:
    """The block's forward is run again on the way back."""
    own = "forward" in vars(block)
    forward = block.forward
    block.forward = partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        if own:
            block.forward = forward
        else:
            del block.forward


SAVINGS: dict[str, Callable[[Any, Any, Any], AbstractContextManager[None]]] = {
    "checkpoint_denoiser": _checkpointed,
    "decoder": _decoder_run_again,
}
"""Setting of [memory] → (UNet, VAE, value) → what puts it on and takes it off."""
