"""Reduced checkpoints that ComfyUI's detection takes for whole ones: few levels of a UNet (or two blocks of SD 3's network),
whole text encoders, TAESD.

Most of their weights are views of one small buffer, so that the files are small; ComfyUI's own loader reads them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import ldm
import torch
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
from comfy.taesd.taesd import TAESD
from torch import Tensor

from rlr_core.families import SD1, SD2, SDXL

Tensors = dict[str, Tensor]
ONE_LEVEL = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {**ONE_LEVEL, "block_out_channels": (320,), "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {
        **ONE_LEVEL, "block_out_channels": (320,), "cross_attention_dim": 1024, "attention_head_dim": (5,),
        "use_linear_projection": True,
    },
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "UpBlock2D"), "block_out_channels": (320, 320, 320),
        "transformer_layers_per_block": (1, 2, 10), "cross_attention_dim": 2048, "attention_head_dim": (5, 5, 5),
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
"""Family → what diffusers makes its UNet of. By the depths of XL's transformers on the way down ComfyUI knows it."""


@cache
@torch.inference_mode(False)
def unet(family: str) -> Any:
    """diffusers' UNet of the checkpoint."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = UNet2DConditionModel(sample_size=8, layers_per_block=2, **UNETS[family])
    return network.eval().requires_grad_(False)


@cache
def checkpoint(family: str) -> Path:
    """Of a family in `MADE`; "bare" is of SD 1.x without CLIP and VAE, "fp8" with linear layers in 8 bits with scales."""
    path = Path(tempfile.mkdtemp()) / f"reduced-{family}.ckpt"
    torch.save({"state_dict": MADE[family]()}, path)
    return path


def _sd1() -> Tensors:
    return _unet("sd1") | _thrifty(ldm.clip_tensors(_texts(SD1)["text_encoder"], ldm.CLIP)) | _vae()


def _sd2() -> Tensors:
    text = _texts(SD2)["text_encoder"]
    return _unet("sd2") | _thrifty(ldm.open_clip_tensors(text, ldm.OPEN_CLIP, another_layer=True)) | _vae()


def _sdxl() -> Tensors:
    texts = _texts(SDXL)
    first = ldm.clip_tensors(texts["text_encoder"], ldm.XL_CLIP)
    second = ldm.open_clip_tensors(texts["text_encoder_2"], ldm.XL_OPEN_CLIP, another_layer=False)
    return _unet("sdxl") | _thrifty(first) | _thrifty(second) | _vae()


def _sd3() -> Tensors:
    """Two blocks of 128 channels, CLIP-L alone; its network is ComfyUI's own, filled with numbers that do something."""
    import comfy.ops

    sizes = {"adm_in_channels": 2048, "pos_embed_max_size": 32, "num_patches": 32**2, "qk_norm": "rms"}
    words = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}}
    network = OpenAISignatureMMDITWrapper(
        input_size=None, in_channels=16, depth=2, context_embedder_config=words,
        operations=comfy.ops.disable_weight_init, **sizes,
    )  # fmt: skip
    filled = _filled(network.state_dict(), seed=7)
    named = {"model.diffusion_model." + name: value for name, value in filled.items()}
    clip = ldm.clip_tensors(_texts(SD1)["text_encoder"], "text_encoders.clip_l.transformer.text_model.")
    return named | _thrifty(clip) | _vae(16)


def _fp8() -> Tensors:
    """As files with scales are written; the two numbers ask for multiplication in full precision."""
    tensors = _sd1()
    for name in [name for name in tensors if name.startswith(ldm.UNET) and tensors[name].dim() == 2]:
        scale = tensors[name].abs().max() / torch.finfo(torch.float8_e4m3fn).max
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        tensors[name.removesuffix("weight") + "scale_weight"] = scale
    return {**tensors, ldm.UNET + "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}


def _network(kind: str, channels: int) -> Tensors:
    """Of a family beyond, with TAESD and without a text encoder: those are many times as large."""
    import reduced_networks

    named = {"model.diffusion_model." + name: value for name, value in reduced_networks.tensors(kind).items()}
    return named | {
        name.replace("first_stage_model.", "vae."): value for name, value in _vae(channels).items()
    }


MADE: dict[str, Callable[[], Tensors]] = {
    "sd1": _sd1,
    "sd2": _sd2,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "bare": lambda: _unet("sd1"),
    "fp8": _fp8,
    "pixart": partial(_network, "PixArtSigma", 4),
    "flux": partial(_network, "FluxSchnell", 16),
}


def _unet(family: str) -> Tensors:
    return {name: value.detach() for name, value in ldm.unet_tensors(unet(family))}


def _texts(family: Any) -> dict[str, Any]:
    """Text encoders without memory."""
    with torch.device("meta"):
        return ldm.networks(family)


def _vae(channels: int = 4) -> Tensors:
    """TAESD's tensors."""
    state = _filled(TAESD(latent_channels=channels).state_dict(), seed=6)
    return {"first_stage_model." + name: value for name, value in state.items()}


def _filled(state: dict[str, Any], seed: int) -> Tensors:
    """With numbers that keep the size of what goes through; ComfyUI's own layers begin with whatever the memory holds."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in state.items():
        if name.endswith(("weight", "bias", "pos_embed")):
            spread = 1.4 / max(1, value[0].numel()) ** 0.5 if value.dim() > 1 else 0.02
            state[name] = torch.randn(value.shape, generator=generator) * spread
    return state


POOL = torch.randn(2**17, generator=torch.Generator().manual_seed(4)) * 0.02


def _thrifty(tensors: Any) -> Tensors:
    """Of those shapes, on memory that all share."""
    return {name: POOL.as_strided(value.shape, (1,) * value.dim()) for name, value in tensors}
