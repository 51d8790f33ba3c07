"""A new LoRA, or that of a file, put into a model's networks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from rlr_core.chain.noise import derive_seed
from rlr_core.config import LoraConfig
from rlr_core.errors import CheckpointError
from rlr_core.families import Adaptable, Place, Role
from rlr_core.lora.files import read_lora
from rlr_core.lora.injected import InjectedLora, LayerSize
from rlr_core.lora.targets import Layer, loadable_layers, target_layers
from rlr_core.lora.weights import LayerChange, LayerChanges, LayerWeights, LoraWeights

MERGE = "merge it into the checkpoint with `rlr lora merge`, and use that"
MADE_FOR = "choose another file, or the checkpoint that it was made for"


def inject(
    model: Adaptable,
    config: LoraConfig,
    seed: int,
    kind: Callable[..., InjectedLora] | None = None,
) -> InjectedLora:
    """Put a new LoRA into a model's networks; its effect is 0 until it is trained.

    `down` is uniform on ±1/sqrt(fan-in), as in kohya and peft, from `seed` and the layer's path; `up` is 0.
    rsLoRA (arXiv 2312.03732) divides alpha by the root of the rank: files, which know only alpha / rank, get a larger alpha.

    Args:
        kind: how it is put there; None is through peft, or by hooks where peft is not installed.
    """
    alpha = config.alpha * math.sqrt(config.rank) if config.rslora else config.alpha
    size = LayerSize(config.rank, as_float32(alpha))
    places = target_layers(model, config)
    lora = (kind or default_kind())(model, dict.fromkeys(places, size), dora=config.dora)
    denoisers = {component.name for component in model.components if component.role == Role.DENOISER}
    with torch.no_grad():
        for place, down, up in lora.layers():
            bound = 1 / math.sqrt(down[0].numel())
            words = (place.path,) if place.network in denoisers else place
            generator = torch.Generator().manual_seed(derive_seed(seed, "lora", *words))
            down.copy_((torch.rand(down.shape, generator=generator) * 2 - 1) * bound)
            up.zero_()
    return lora


def load_lora(path: Path, model: Adaptable, kind: type[InjectedLora] | None = None) -> InjectedLora:
    """Inject the LoRA of a file, of any format; rank, alpha and layers are the file's.

    Raises `CheckpointError`, naming the file, if it is missing, damaged, or has a layer that does not fit.
    """
    file = read_lora(path, model.lora_family)
    places = loadable_layers(model.components, model.lora_family)
    strange = [place for place in file.weights if place not in places]
    if strange:
        raise CheckpointError(
            f"{path}: {len(file.weights) - len(strange)} of its {len(file.weights)} layers are in this checkpoint;"
            f" {len(strange)} are not, such as {'.'.join(strange[0])}",
            "a LoRA that was made for this kind of checkpoint",
            MADE_FOR,
        )
    changes = {place: file.weights[place] for place in places if place in file.weights}
    try:
        weights = {place: _as_lora(layer, places[place], place) for place, layer in changes.items()}
        _say_what_it_becomes(path, changes, weights)
        return _install(model, weights, kind or default_kind())
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} does not fit: {error}", "a LoRA for this checkpoint", "choose another file"
        ) from None


def _as_lora(layer: LayerChange, there: Layer, place: Place) -> LayerWeights:
    """The same effect on a layer as a LoRA. Raises `CheckpointError` for what is none."""
    where, weight = ".".join(place), there.module.weight
    if layer.bias is not None:
        raise CheckpointError(f"{where} has a bias of its own", "weights alone", MERGE)
    if isinstance(layer, LayerWeights):
        return layer
    if not layer.fits(tuple(weight.shape)):
        raise CheckpointError(f"{where} of shape {layer.shape}", f"shape {tuple(weight.shape)}", MADE_FOR)
    return layer.as_lora(weight.detach().float().cpu())


def _say_what_it_becomes(path: Path, changes: LayerChanges, weights: LoraWeights) -> None:
    kinds = list(dict.fromkeys(layer.kind for place, layer in changes.items() if layer is not weights[place]))
    if kinds:
        rank = max(layer.rank for layer in weights.values())
        warnings.warn(
            f"{path} is a {' and '.join(kinds)}: it is computed as the LoRA of rank {rank} that has the same effect",
            stacklevel=3,
        )


def _install(model: Adaptable, weights: LoraWeights, kind: type[InjectedLora]) -> InjectedLora:
    dora = {place for place, layer in weights.items() if layer.magnitude is not None}
    if dora and len(dora) < len(weights):
        raise CheckpointError(
            f"{len(dora)} of its {len(weights)} layers are DoRA",
            "all of them, or none",
            "choose another file",
        )
    if any(layer.by_input for layer in weights.values()):
        raise CheckpointError(
            "its DoRA has a norm for each input (LyCORIS, OneTrainer), which only merging computes",
            "a norm for each output",
            MERGE,
        )
    sizes = {place: LayerSize(layer.rank, as_float32(layer.alpha)) for place, layer in weights.items()}
    lora = kind(model, sizes, dora=bool(dora))
    try:
        lora.set_weights(weights)
    except CheckpointError:
        lora.eject()
        raise
    return lora


def default_kind() -> type[InjectedLora]:
    """Through peft where it is installed, else by forward hooks."""
    try:
        import peft  # noqa: F401
    except ImportError:
        from rlr_core.lora.hooked_lora import HookedLora

        return HookedLora
    from rlr_core.lora.peft_lora import PeftLora

    return PeftLora


def as_float32(value: float) -> float:
    """The number that remains when `value` is stored in a file."""
    return float(torch.tensor(value, dtype=torch.float32))
