"""Which tensors of a file are a layer of LyCORIS, and which formats can have it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from rlr_core.errors import CheckpointError
from rlr_core.families import LoraFamily, Place
from rlr_core.lora.lycoris import DO, LoHa, LoKr, LycorisLayer, Tucker
from rlr_core.lora.lycoris_whole import Full, Rescaling
from rlr_core.lora.weights import LayerChange, LayerWeights

LARGEST = 2**27
"""Numbers of a layer that are multiplied out; the largest of SDXL has 29 million."""
UNTOLD_PLACES = re.compile(r"(.*\.conv[12]?|conv_in|conv_out)$")
"""Paths of convolutions whose places may lie flat in a file of LyCORIS."""

KINDS: Mapping[type[LycorisLayer], tuple[frozenset[str], ...]] = {
    LoHa: (
        frozenset({".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b"}),
        frozenset({".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b", ".hada_t1", ".hada_t2"}),
    ),
    LoKr: tuple(
        frozenset({*first, *second})
        for first in ((".lokr_w1",), (".lokr_w1_a", ".lokr_w1_b"))
        for second in (
            (".lokr_w2",),
            (".lokr_w2_a", ".lokr_w2_b"),
            (".lokr_w2_a", ".lokr_w2_b", ".lokr_t2"),
        )
    ),
    Tucker: (frozenset({".lora_up.weight", ".lora_down.weight", ".lora_mid.weight"}),),
    Full: (frozenset({".diff"}), frozenset({".diff", ".diff_b"})),
    Rescaling: (frozenset({".weight", ".on_input"}),),
}
"""Which parts a layer of each kind has; no others and none less."""
OWN = frozenset[str]().union(*(ends for sets in KINDS.values() for ends in sets)) - {
    ".lora_up.weight",
    ".lora_down.weight",
}
"""Endings that only layers of LyCORIS have."""


def lycoris_layer(parts: Mapping[str, Tensor]) -> LycorisLayer | None:
    """The layer that tensors are; None where they are incomplete, or do not fit to each other.

    Its alpha is the rank, and it has no norms.
    """
    kind = next((kind for kind, sets in KINDS.items() if frozenset(parts) in sets), None)
    if kind is None or not _well_formed(kind, parts):
        return None
    layer = kind(parts, 1.0)
    return replace(layer, alpha=float(layer.rank))


def _well_formed(kind: type[LycorisLayer], parts: Mapping[str, Tensor]) -> bool:
    """Tried without memory, by the shapes alone."""
    if not all(part.numel() for part in parts.values()):
        return False
    if kind is Rescaling:
        weight, told = parts[".weight"], parts[".on_input"]
        return weight.numel() == max(weight.shape, default=0) and told.numel() == 1 and float(told) in (0, 1)
    if not all(part.is_floating_point() for part in parts.values()):
        return False
    factors = [part for end, part in parts.items() if end.endswith(("_a", "_b")) and end != ".diff_b"]
    cores = [part for end, part in parts.items() if end.endswith(("_t1", "_t2", ".lora_mid.weight"))]
    if any(part.dim() != 2 for part in factors) or any(core.dim() != 4 for core in cores):
        return False
    shapes = {end: part.to("meta") for end, part in parts.items()}
    try:
        return _multiplies(kind(shapes, 1.0))
    except (RuntimeError, AssertionError, IndexError, ValueError):
        return False


def _multiplies(layer: LycorisLayer) -> bool:
    """Whether the product of tensors without memory has the layer's shape, and is not too large to be made."""
    numbers = [size for size in layer.shape if size is not None]
    if len(numbers) not in (2, 4) or math.prod(numbers) > LARGEST:
        return False
    bias = layer.parts.get(".diff_b")
    return tuple(layer.delta().shape) == layer.shape and (
        bias is None or tuple(bias.shape) == layer.shape[:1]
    )


def carried(place: Place, layer: LayerChange, kind: str, family: LoraFamily) -> LayerChange:
    """The layer as the format can have it: diffusers' has LoRAs alone. Raises `CheckpointError` for what it cannot have."""
    if kind == "comfyui" and isinstance(layer, Rescaling):
        raise CheckpointError(
            f"an (IA)³ ({place.path}) in ComfyUI's format", "kohya's, which A1111 reads", DO
        )
    if kind != "diffusers" or not isinstance(layer, LycorisLayer):
        return layer
    if layer.bias is not None or isinstance(layer, Full | Rescaling):
        what = " with a bias" if layer.bias is not None else ""
        raise CheckpointError(f"a {layer.kind}{what} ({place.path}) in diffusers' format", "a LoRA", DO)
    if len(layer.shape) == 2 and UNTOLD_PLACES.fullmatch(place.path):
        raise CheckpointError(
            f"{place.path}, a convolution of a {layer.kind} whose size the file does not tell, in diffusers' format",
            "linear layers, or cores",
            DO,
        )
    lora = layer.as_lora()
    return _of_one_place(lora) if lora.down.dim() == 2 and _has_one_place(place, family) else lora


def _has_one_place(place: Place, family: LoraFamily) -> bool:
    """Whether the layer is a convolution of 1 × 1: peft then wants its factors to be, too."""
    return place.path.endswith("conv_shortcut") or (
        family.key == "sd1" and place.network == "unet" and place.path.endswith((".proj_in", ".proj_out"))
    )


def _of_one_place(lora: LayerWeights) -> LayerWeights:
    norms = None if lora.magnitude is None else lora.magnitude.reshape(-1, 1, 1, 1)
    return replace(lora, down=lora.down[..., None, None], up=lora.up[..., None, None], magnitude=norms)
