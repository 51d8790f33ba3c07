"""Which layers of a model's networks get a LoRA; only such as LoRA files have names for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from rlr_core.config import LoraConfig
from rlr_core.errors import CheckpointError, ConfigError
from rlr_core.families import Adaptable, Component, LoraFamily, Place, Role


class Layer(NamedTuple):
    """A layer that a LoRA can be for: the module, and its path in its network as that has it."""

    module: Any
    path: str


def target_layers(model: Adaptable, config: LoraConfig) -> list[Place]:
    """The layers to be trained, in the networks' order.

    Raises `ConfigError` where a network has none of them, `CheckpointError` where one has layers that cannot be told apart.
    """
    components, family = model.components, model.lora_family
    if config.targets not in family.targets:
        raise ConfigError(
            f"lora.targets = '{config.targets}' for {family.title}",
            f"one of {', '.join(family.targets)}",
            "change the setting",
        )
    patterns = {Role.DENOISER: family.targets[config.targets]}
    if config.text_encoder:
        patterns[Role.TEXT_ENCODER] = family.text_targets
    chosen: list[Place] = []
    for component in components:
        if component.role in patterns:
            chosen += _matching(component, family, re.compile(patterns[component.role]), config)
    if config.text_encoder and not any(each.role == Role.TEXT_ENCODER for each in components):
        raise ConfigError(
            "lora.text_encoder = true for a model whose text encoder is not at hand",
            "lora.text_encoder = false",
            "change the setting",
        )
    return chosen


def _matching(
    component: Component, family: LoraFamily, pattern: re.Pattern[str], config: LoraConfig
) -> list[Place]:
    chosen = [place for place in loadable_layers([component], family) if pattern.fullmatch(place.path)]
    if not chosen:
        denoiser = component.role == Role.DENOISER
        setting = f"lora.targets = '{config.targets}'" if denoiser else "lora.text_encoder = true"
        raise ConfigError(
            f"{setting}, and the checkpoint's {component.name} has no such layer",
            "layers that it has",
            "change the setting",
        )
    return chosen


def loadable_layers(components: Sequence[Component], family: LoraFamily) -> dict[Place, Layer]:
    """All linear layers and convolutions of the denoiser and the text encoders, whatever library they are of.

    Raises `CheckpointError` for a denoiser with layers that `family` does not know: what a target names could then be found
    only in part.
    """
    found: dict[Place, Layer] = {}
    for component in components:
        if component.role == Role.DECODER:
            continue
        for path, module in component.network.named_modules():
            if is_layer(module):
                found[_place(component, path, family)] = Layer(module, path)
    return found


def _place(component: Component, path: str, family: LoraFamily) -> Place:
    try:
        return family.place(component.name, component.role, path)
    except KeyError:
        raise CheckpointError(
            f"the {component.name} has a layer '{path}', which no layer of {family.title} is called",
            f"the layers of {family.title}",
            "choose a checkpoint of that family",
        ) from None


def is_layer(module: Any) -> bool:
    """Whether it multiplies by a matrix or convolves: by what it has, since hosts have classes of their own."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return False
    linear = hasattr(module, "in_features") and hasattr(module, "out_features")
    return linear or (hasattr(module, "kernel_size") and hasattr(module, "in_channels"))


def by_network(places: Mapping[Place, Any]) -> dict[str, dict[Place, Any]]:
    """The same, one table for each network."""
    tables: dict[str, dict[Place, Any]] = {}
    for place, value in places.items():
        tables.setdefault(place.network, {})[place] = value
    return tables
