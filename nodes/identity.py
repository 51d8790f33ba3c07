"""A name for what a run is trained on, so that it goes on with nothing else: ComfyUI's objects know none of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

LOOKED_AT = 16
"""Numbers of each tensor: files of other weights differ in all of them."""


def identity(patcher: Any, vae: nn.Module, texts: Mapping[str, Tensor], scheduler: str) -> str:
    """Of the kind of network, its weights with whatever is on them, the VAE's, how it samples, and what CLIP says.

    Args:
        patcher: a MODEL, loaded.
        vae: the VAE's network.
        texts: CLIP's, by name.
        scheduler: ComfyUI's name of how the levels lie.
    """
    seen = hashlib.sha256()
    for network in (patcher.model.diffusion_model, vae):
        for tensor in _samples(network):
            seen.update(tensor.numpy().tobytes())
    for name in sorted(texts):
        seen.update(texts[name].float().contiguous().numpy().tobytes())
    sampling = patcher.get_model_object("model_sampling")
    seen.update(repr([scheduler, type(sampling).__mro__, _told(patcher.model_options)]).encode())
    kind = type(patcher.model.model_config).__name__
    return f"ComfyUI {kind} {seen.hexdigest()[:12]} ({scheduler})"


def _samples(network: nn.Module) -> Iterator[Tensor]:
    for value in network.state_dict().values():
        flat = value.detach().flatten()
        yield flat[:: max(1, len(flat) // LOOKED_AT)][:LOOKED_AT].float().cpu()


def _told(value: Any) -> Any:
    """Options as text: functions by name and by the numbers that they hold, without places in memory."""
    if isinstance(value, dict):
        return sorted((str(key), _told(item)) for key, item in value.items())
    if isinstance(value, list | tuple | set):
        return [_told(item) for item in value]
    if isinstance(value, bool | int | float | str | type(None)):
        return value
    held = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    numbers = [item for item in held if isinstance(item, bool | int | float | str)]
    return [getattr(value, "__qualname__", type(value).__qualname__), *numbers]
