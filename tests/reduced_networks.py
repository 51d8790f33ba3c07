"""Networks of families beyond Stable Diffusion 1.x, 2.x and XL, as small as ComfyUI's own detection allows.

ComfyUI knows a family, and its sizes, by the names and shapes of a few tensors. Those are given here; what they make it build
is asked for all other shapes. Large tensors are views of one small buffer.
"""

from __future__ import annotations

import comfy.model_detection
import comfy.supported_models
import torch
from torch import Tensor

Tensors = dict[str, Tensor]
FLUX = {
    "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
    "single_blocks.0.linear1.weight": (1,),
    "img_in.weight": (256, 64),
    "txt_in.weight": (256, 4096),
    "vector_in.in_layer.weight": (256, 2048),
}
PIXART = {"t_block.1.weight": (1,), "blocks.0.mlp.fc1.weight": (1,), "pos_embed": (1, 32**2, 1152)}
MARKS: dict[str, dict[str, tuple[int, ...]]] = {
    "PixArtAlpha": {**PIXART, "ar_embedder.mlp.0.weight": (1,)},
    "PixArtSigma": PIXART,
    "Flux": {**FLUX, "guidance_in.in_layer.weight": (1,)},
    "FluxSchnell": FLUX,
    "Flux2": {
        **FLUX, "img_in.weight": (256, 128), "txt_in.weight": (256, 512),
        "double_stream_modulation_img.lin.weight": (1,),
    },
    "Chroma": {
        **{name: shape for name, shape in FLUX.items() if "vector_in" not in name}, "img_in.weight": (3072, 64),
        "txt_in.weight": (3072, 4096), "distilled_guidance_layer.norms.0.scale": (5120,),
    },
    "AuraFlow": {
        "double_layers.0.attn.w1q.weight": (1,), "single_layers.0.attn.w1q.weight": (1,),
        "positional_encoding": (1, 64, 3072), "cond_seq_linear.weight": (3072, 2048),
    },
    "Lumina2": {
        "cap_embedder.1.weight": (2304, 512), "noise_refiner.0.attention.k_norm.weight": (1,),
        "layers.0.attention.out.weight": (1,),
    },
    "ZImage": {
        "cap_embedder.1.weight": (3840, 512), "noise_refiner.0.attention.k_norm.weight": (1,),
        "layers.0.attention.out.weight": (1,),
    },
}  # fmt: skip
"""ComfyUI's name of a family → what it knows it by; sizes of 1 are not looked at. FLUX's texts are as SD 3's CLIP has them."""
LARGE = 2**20
POOL = torch.randn(2**17, generator=torch.Generator().manual_seed(8))


def is_known(kind: str) -> bool:
    """Whether this ComfyUI has the family."""
    return hasattr(comfy.supported_models, kind)


@torch.inference_mode(False)
def tensors(kind: str) -> Tensors:
    """All of a network of the family `kind`."""
    marks = {name: torch.empty(shape, device="meta") for name, shape in MARKS[kind].items()}
    config = comfy.model_detection.model_config_from_unet(marks, "")
    assert type(config).__name__ == kind, type(config).__name__
    shapes = marks | config.get_model({}, "", device="meta").diffusion_model.state_dict()
    generator = torch.Generator().manual_seed(7)
    return {name: _numbers(name, value.shape, generator) for name, value in shapes.items()}


def _numbers(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """That keep the size of what goes through; scales of norms are about 1."""
    if len(shape) < 2:
        return 0.1 * torch.randn(shape, generator=generator) + (0.0 if name.endswith("bias") else 1.0)
    spread = 1.0 / shape[1:].numel() ** 0.5
    if shape.numel() < LARGE:
        return spread * torch.randn(shape, generator=generator)
    return (spread * POOL).as_strided(shape, (1,) * len(shape))
