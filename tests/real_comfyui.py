"""The real ComfyUI, in this process, with a reduced SD 1.5 checkpoint: one level of 320 channels, a whole CLIP, TAESD.

Its weights but the UNet's are views of one small buffer, so that the file is small; ComfyUI's own loader reads it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import ldm
import torch
from torch import Tensor

from rlr_core.families import SD1

sys.path.append(os.environ["COMFYUI_DIR"])

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.sample
import comfy.sd
from comfy.taesd.taesd import TAESD


@cache
@torch.inference_mode(False)
def unet() -> Any:
    """diffusers' UNet of the checkpoint."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(320,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            layers_per_block=2,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
    return network.eval().requires_grad_(False)


@cache
def checkpoint() -> Path:
    tensors = {name: value.detach() for name, value in ldm.unet_tensors(unet())}
    with torch.device("meta"):
        text = ldm.networks(SD1)["text_encoder"]
    tensors |= {name: thrifty(value) for name, value in ldm.clip_tensors(text, ldm.CLIP)}
    tensors |= {"first_stage_model." + name: value for name, value in _decoder().items()}
    path = Path(tempfile.mkdtemp()) / "reduced.ckpt"
    torch.save({"state_dict": tensors}, path)
    return path


def _decoder() -> dict[str, Tensor]:
    """TAESD's tensors; ComfyUI's own layers begin with whatever the memory holds."""
    generator = torch.Generator().manual_seed(6)
    state = TAESD().state_dict()
    for name, value in state.items():
        if name.endswith(("weight", "bias")):
            spread = 1.4 / max(1, value[0].numel()) ** 0.5 if value.dim() > 1 else 0.02
            state[name] = torch.randn(value.shape, generator=generator) * spread
    return state


POOL = torch.randn(2**17, generator=torch.Generator().manual_seed(4)) * 0.02


def thrifty(value: Tensor) -> Tensor:
    """Of that shape, on memory that all share."""
    return POOL.as_strided(value.shape, (1,) * value.dim())


@torch.inference_mode()
def objects() -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE."""
    return comfy.sd.load_checkpoint_guess_config(str(checkpoint()))[:3]
