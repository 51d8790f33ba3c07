"""A LoRA that peft wraps a model's layers with. Nothing else of the project knows peft's internals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlr_core.errors import CheckpointError
from rlr_core.families import Place
from rlr_core.lora.injected import InjectedLora, LayerSize
from rlr_core.lora.targets import Layer, by_network

ADAPTER = "default"


class PeftLora(InjectedLora):
    """A LoRA through peft, in networks of torch's own layers. A network holds one at a time."""

    def _insert(self) -> dict[Place, list[Tensor]]:
        for place, layer in self._bases.items():
            _refuse_foreign(place, layer)
        assert not any(hasattr(network, "peft_config") for network in self.networks.values()), (
            "eject the other LoRA first"
        )
        self._required = [(p, p.requires_grad) for n in self.networks.values() for p in n.parameters()]
        for name, sizes in by_network(self.sizes).items():
            paths = {self._bases[place].path: size for place, size in sizes.items()}
            _wrap(self.networks[name], paths, self.dora)
        self._layers = {place: self._module(place) for place in self.sizes}
        return {place: _tensors(module) for place, module in self._layers.items()}

    def _module(self, place: Place) -> Any:
        return self.networks[place.network].get_submodule(self._bases[place].path)

    def eject(self) -> None:
        for place, base in self._bases.items():
            self.networks[place.network].set_submodule(base.path, base.module)
        for parameter, required in self._required:
            parameter.requires_grad_(required)
        for network in self.networks.values():
            del network.peft_config

    @contextmanager
    def disabled(self) -> Iterator[None]:
        for module in self._layers.values():
            module.enable_adapters(False)
        try:
            yield
        finally:
            for module in self._layers.values():
                module.enable_adapters(True)

    @contextmanager
    def scaled(self, strength: float) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self._layers.values():
                if self.dora:
                    stack.callback(module.register_forward_hook(_Blend(strength)).remove)
                else:
                    stack.callback(module.scaling.__setitem__, ADAPTER, module.scaling[ADAPTER])
                    module.scaling[ADAPTER] *= strength
            yield


@dataclass(frozen=True)
class _Blend:
    """A forward hook: a straight line from the base layer's output to that with the LoRA."""

    strength: float

    def __call__(self, module: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        base = module.base_layer(*inputs)
        return base + self.strength * (output - base)


def _refuse_foreign(place: Place, layer: Layer) -> None:
    """peft would leave a layer of another library's class out, or wrap it wrongly."""
    if not isinstance(layer.module, nn.Linear | nn.Conv2d | nn.Conv3d):
        raise CheckpointError(
            f"{'.'.join(place)} is a {type(layer.module).__qualname__}, which peft cannot wrap",
            "layers of torch: Linear, Conv2d or Conv3d",
            "choose a checkpoint that is not quantised",
        )


def _tensors(module: Any) -> list[Tensor]:
    """down, up and, with DoRA, magnitude, of a layer that peft has wrapped."""
    parts = [module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight]
    return parts + [module.lora_magnitude_vector[name].weight for name in module.lora_magnitude_vector]


def _wrap(network: Any, sizes: Mapping[str, LayerSize], dora: bool) -> None:
    """Let peft wrap the layers. The global random state is as before."""
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    pattern = {layer: re.escape(layer) for layer in sizes}
    first = next(iter(sizes.values()))
    config = PeftConfig(
        r=first.rank,
        lora_alpha=first.alpha,  # pyright: ignore[reportArgumentType] (peft says int, and divides)
        target_modules="|".join(pattern.values()),
        rank_pattern={pattern[layer]: size.rank for layer, size in sizes.items() if size.rank != first.rank},
        alpha_pattern={
            pattern[layer]: size.alpha for layer, size in sizes.items() if size.alpha != first.alpha
        },  # pyright: ignore
        use_dora=dora,
    )
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, network, adapter_name=ADAPTER)
    for layer in sizes:
        module = network.get_submodule(layer)
        for weights in (
            module.lora_A[ADAPTER],
            module.lora_B[ADAPTER],
            *module.lora_magnitude_vector.values(),
        ):
            weights.float()
