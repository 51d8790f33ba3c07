"""What is in a LoRA file, in words."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rlr_core.families.stable_diffusion.stems import UNET
from rlr_core.lora.files import LoraFile, read_lora
from rlr_core.lora.lycoris_whole import Rescaling
from rlr_core.lora.weights import LayerChange, LayerChanges, LayerWeights, finite, useless
from rlr_core.safetensors_header import shown

LOUDEST = 5


def lora_report(path: Path) -> str:
    """Format, family, ranks, alphas, layers, precision, norms and metadata of the file, on several lines.

    Raises `CheckpointError` if it is missing, damaged, or no LoRA of a family that is known.
    """
    file = read_lora(path)
    layers = list(file.weights.values())
    facts = {
        "format": file.kind,
        "adapter": _counted(layer.kind for layer in layers),
        "family": file.family.title if file.family else "not told by the file",
        "layers": _networks(file.weights),
        "targets": _counted(_target(place.path) for place in file.weights),
        "rank": _counted(str(layer.rank) for layer in layers),
        "alpha": _counted(f"{layer.alpha:g}" for layer in layers),
        "precision": _counted(str(layer.tensors[0].dtype).removeprefix("torch.") for layer in layers),
        "DoRA": _dora(layers),
        "size": f"{sum(_size(layer) for layer in layers):,} numbers",
        "state": _state(file.weights),
        "norm": _norms(file.weights),
    }
    lines = [f"{name + ':':11}{value}" for name, value in facts.items()]
    return "\n".join([shown(path, 1000), *lines, *_metadata(file)])


def _networks(weights: LayerChanges) -> str:
    counts = Counter(place.network for place in weights)
    return f"{len(weights)} ({', '.join(f'{count} in {name}' for name, count in counts.items())})"


def _target(path: str) -> str:
    if "attn" in path:
        return "attention"
    if ".ff." in path or ".mlp." in path or path.endswith(("proj_in", "proj_out")):
        return "feed-forward and projections"
    return "convolutions and the rest"


def _counted(values: Iterable[str]) -> str:
    """ "8 (190 layers), 4 (2 layers)"; the count only where there are several."""
    counts = Counter(values).most_common()
    if len(counts) == 1:
        return counts[0][0]
    told = [f"{value} ({count} layers)" for value, count in counts[:LOUDEST]]
    return ", ".join(told) + (f" and {len(counts) - LOUDEST} more" if len(counts) > LOUDEST else "")


def _size(layer: LayerChange) -> int:
    norms = 0 if layer.magnitude is None else layer.magnitude.numel()
    return sum(tensor.numel() for tensor in layer.tensors) - norms


def _dora(layers: list[LayerChange]) -> str:
    if any(layer.by_input for layer in layers):
        return "yes, a norm for each input"
    return "yes" if any(layer.magnitude is not None for layer in layers) else "no"


def _state(weights: LayerChanges) -> str:
    broken = sum(not finite(layer) for layer in weights.values())
    if broken:
        return f"broken: NaN or infinity in {broken} layers"
    return "0 everywhere: it has no effect" if useless(weights) else "finite"


def _norms(weights: LayerChanges) -> str:
    """Frobenius norms of alpha/rank · up·down, of all layers together and of the largest."""
    told = {place: layer for place, layer in weights.items() if not isinstance(layer, Rescaling)}
    if not told:
        return "that of the checkpoint's weights times those of the file"
    norms = {place: _norm(layer) for place, layer in told.items()}
    total = math.hypot(*norms.values())
    place = max(norms, key=lambda place: norms[place])
    where = place.path if place.network == UNET else ".".join(place)
    return f"{total:.4g} in all; the largest is {norms[place]:.4g}, of {where}"


def _norm(layer: LayerChange) -> float:
    """Of a LoRA from rank × rank products, without making the whole matrix: ‖UD‖² = tr(UᵀU · DDᵀ)."""
    if not isinstance(layer, LayerWeights):
        return float(layer.delta().norm())
    down, up = layer.down.float().flatten(1), layer.up.float().flatten(1)
    return float(((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt()) * abs(layer.scale)


def _metadata(file: LoraFile) -> list[str]:
    if not file.metadata:
        return ["metadata:  none"]
    return [
        "metadata:",
        *(f"  {shown(name)}: {_short(value)}" for name, value in sorted(file.metadata.items())),
    ]


def _short(value: str) -> str:
    """Long values are JSON that no one reads here."""
    return (
        shown(value, 200)
        if len(value) <= 200
        else f"{shown(json.dumps(value[:120], ensure_ascii=False), 130)} …"
    )
