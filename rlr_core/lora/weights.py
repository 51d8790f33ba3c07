"""A LoRA as numbers: what each layer gets, whatever file it came from and whatever model it goes into."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlr_core.lora.names import TEXT, TEXT_2, UNET, Place

FAMILIES = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "Stable Diffusion XL"}
WIDTHS = {(UNET, 768): "sd1", (UNET, 1024): "sd2", (UNET, 2048): "sdxl", (TEXT, 1024): "sd2"}
"""Network and width of the text that it reads (UNet) or of its states (text encoder) → family."""


@dataclass(frozen=True)
class LayerWeights:
    """Effect on a layer with weight W (out, in, …): W + alpha/rank · up·down, and with DoRA its rows then scaled.

    Attributes:
        down: (rank, in) or, of a convolution, (rank, in, k, k).
        up: (out, rank) or (out, rank, 1, 1).
        magnitude: DoRA (arXiv 2402.09353), the norm that each output has, (out, 1) or (out, 1, 1, 1); or None.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """Inner size."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    def delta(self) -> Tensor:
        """alpha/rank · up·down, float32, (out, in) or (out, in, k, k)."""
        down, up = self.down.float(), self.up.float()
        product = up.flatten(1) @ down.flatten(1)
        return (self.scale * product).reshape(up.shape[0], *down.shape[1:])

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        """The layer's `weight` (out, in, …) with the LoRA at `strength`, float32.

        With DoRA, `strength` goes from the old weight to the new one in a straight line, as hosts do it.
        """
        base = weight.float()
        delta = self.delta().reshape(base.shape).to(base.device)
        if self.magnitude is None:
            return base + strength * delta
        full = base + delta
        norm = full.flatten(1).norm(dim=1).reshape(-1, *[1] * (full.dim() - 1))
        target = full * (self.magnitude.float().reshape(norm.shape).to(base.device) / norm)
        return base + strength * (target - base)

    def to(self, dtype: torch.dtype) -> LayerWeights:
        """The same in another dtype; alpha stays exact."""
        magnitude = None if self.magnitude is None else self.magnitude.to(dtype)
        return replace(self, down=self.down.to(dtype), up=self.up.to(dtype), magnitude=magnitude)

    def folded(self) -> LayerWeights:
        """Alpha equal to the rank: the scale is multiplied into `up`, for programs that read no alpha."""
        up = (self.up.float() * self.scale).to(self.up.dtype)
        return replace(self, up=up, alpha=float(self.rank))


LoraWeights = dict[Place, LayerWeights]


def family_of(weights: LoraWeights, metadata: dict[str, str]) -> str | None:
    """ "sd1", "sd2" or "sdxl", from the layers' sizes, else from what the metadata says; None where neither tells."""
    for (network, path), layer in weights.items():
        if network == TEXT_2 or "transformer_blocks.1." in path:
            return "sdxl"
        reads_text = network == UNET and path.endswith(("attn2.to_k", "attn2.to_v"))
        if (reads_text or path.endswith("self_attn.q_proj")) and (network, layer.down.shape[1]) in WIDTHS:
            return WIDTHS[network, layer.down.shape[1]]
    return _family_told(metadata) or ("sd1" if _only_small_text(weights) else None)


def _only_small_text(weights: LoraWeights) -> bool:
    return all(
        place.network == TEXT and 768 in (layer.down.shape[1], layer.up.shape[0])
        for place, layer in weights.items()
    )


def _family_told(metadata: dict[str, str]) -> str | None:
    version, architecture = (
        metadata.get("ss_base_model_version", ""),
        metadata.get("modelspec.architecture", ""),
    )
    if version.startswith("sdxl") or architecture.startswith("stable-diffusion-xl"):
        return "sdxl"
    second = version.startswith("sd_v2") or metadata.get("ss_v2") == "True"
    if second or architecture.startswith("stable-diffusion-v2"):
        return "sd2"
    return "sd1" if version.startswith("sd_v1") or architecture.startswith("stable-diffusion-v1") else None


def useless(weights: LoraWeights) -> bool:
    """Whether it would have no effect: every `up` is 0."""
    return not any(layer.up.any() for layer in weights.values())


def finite(layer: LayerWeights) -> bool:
    """Whether all numbers of a layer are."""
    tensors = [tensor for tensor in (layer.down, layer.up, layer.magnitude) if tensor is not None]
    return math.isfinite(layer.alpha) and all(bool(tensor.isfinite().all()) for tensor in tensors)
