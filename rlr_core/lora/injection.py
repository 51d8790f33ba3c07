"""A LoRA inside a UNet, and out of it again."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain.noise import derive_seed
from rlr_core.config import LoraConfig
from rlr_core.errors import CheckpointError
from rlr_core.lora.targets import kohya_name, target_layers

ADAPTER = "default"
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"


@dataclass(frozen=True)
class LayerSize:
    """Of one layer's LoRA: its rank, and alpha as float32 can hold it."""

    rank: int
    alpha: float


def inject(unet: Any, config: LoraConfig, seed: int) -> InjectedLora:
    """Put a new LoRA into a UNet; its effect is 0 until it is trained.

    `down` is uniform on ±1/sqrt(fan-in), as in kohya and peft, from `seed` and the layer's path; `up` is 0.
    """
    size = LayerSize(config.rank, as_float32(config.alpha))
    lora = InjectedLora(unet, dict.fromkeys(target_layers(unet, config.targets), size))
    with torch.no_grad():
        for layer, down, up in lora.layers():
            bound = 1 / math.sqrt(down[0].numel())
            generator = torch.Generator().manual_seed(derive_seed(seed, "lora", layer))
            down.copy_((torch.rand(down.shape, generator=generator) * 2 - 1) * bound)
            up.zero_()
    return lora


def as_float32(value: float) -> float:
    """The number that remains when `value` is stored in a file."""
    return float(torch.tensor(value, dtype=torch.float32))


class InjectedLora:
    """A LoRA that is part of a UNet's forward pass.

    It computes in float32 even where the base is half precision. A UNet holds one LoRA at a time.

    Attributes:
        unet: the UNet.
        sizes: layer path → rank and alpha, in the UNet's order.
        parameters: leaf tensors that require a gradient: down, up, down, up, … in the order of `sizes`.
    """

    def __init__(self, unet: Any, sizes: Mapping[str, LayerSize]):
        assert not hasattr(unet, "peft_config"), "this UNet has a LoRA already: eject it first"
        self.unet, self.sizes = unet, dict(sizes)
        self._bases = {layer: unet.get_submodule(layer) for layer in self.sizes}
        self._required = [(p, p.requires_grad) for p in unet.parameters()]
        _insert(unet, self.sizes)
        self._layers: dict[str, Any] = {layer: unet.get_submodule(layer) for layer in self.sizes}
        self.parameters: list[Tensor] = [p for _, *pair in self.layers() for p in pair]
        assert all(p.is_leaf and p.requires_grad and p.dtype == torch.float32 for p in self.parameters)

    def layers(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(layer path, down, up): down (r, in, …), up (out, r, …)."""
        for layer, module in self._layers.items():
            yield layer, module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight

    @property
    def rank(self) -> int:
        """The largest of the layers' ranks."""
        return max(size.rank for size in self.sizes.values())

    @property
    def alpha(self) -> float:
        """Alpha of the layers with the largest rank."""
        return next(size.alpha for size in self.sizes.values() if size.rank == self.rank)

    def eject(self) -> None:
        """Leave the UNet as it was found, module for module; the parameters keep their values."""
        for layer, base in self._bases.items():
            self.unet.set_submodule(layer, base)
        for parameter, required in self._required:
            parameter.requires_grad_(required)
        del self.unet.peft_config

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model, to the last bit."""
        for module in self._layers.values():
            module.enable_adapters(False)
        try:
            yield
        finally:
            for module in self._layers.values():
                module.enable_adapters(True)

    @contextmanager
    def scaled(self, strength: float) -> Iterator[None]:
        """The LoRA's effect times `strength`, as hosts do for <lora:name:strength>."""
        before = {layer: module.scaling[ADAPTER] for layer, module in self._layers.items()}
        for layer, module in self._layers.items():
            module.scaling[ADAPTER] = before[layer] * strength
        try:
            yield
        finally:
            for layer, module in self._layers.items():
                module.scaling[ADAPTER] = before[layer]

    def state_dict(self) -> dict[str, Tensor]:
        """Copies on the CPU, float32, under kohya's names: down (r, in, …), up (out, r, …), alpha ()."""
        state = {}
        for layer, down, up in self.layers():
            name = kohya_name(layer)
            state[name + DOWN] = down.detach().cpu().clone().contiguous()
            state[name + UP] = up.detach().cpu().clone().contiguous()
            state[name + ALPHA] = torch.tensor(self.sizes[layer].alpha, dtype=torch.float32)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`.

        Raises `CheckpointError`, and changes nothing, if `state` is of another LoRA or not finite.
        """
        own = self.state_dict()
        self._check(state, own)
        with torch.no_grad():
            for layer, down, up in self.layers():
                down.copy_(state[kohya_name(layer) + DOWN])
                up.copy_(state[kohya_name(layer) + UP])

    def _check(self, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        do = "use the file with the config that it was made with"
        if state.keys() != own.keys():
            strange, absent = sorted(state.keys() - own.keys()), sorted(own.keys() - state.keys())
            raise CheckpointError(
                f"{len(strange)} unknown and {len(absent)} missing tensors ({(strange + absent)[0]}, …)",
                f"the {len(own)} tensors of this LoRA",
                do,
            )
        for name, value in own.items():
            given = state[name]
            if given.shape != value.shape:
                raise CheckpointError(
                    f"{name} of shape {tuple(given.shape)}", f"shape {tuple(value.shape)}", do
                )
            if not given.isfinite().all():
                raise CheckpointError(
                    f"{name} holds NaN or infinity", "finite numbers", "use an earlier checkpoint"
                )
            if name.endswith(ALPHA) and not torch.equal(given.float().cpu(), value):
                raise CheckpointError(f"{name} = {float(given):g}", f"{float(value):g}", do)


def _insert(unet: Any, sizes: Mapping[str, LayerSize]) -> None:
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
    )
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, unet, adapter_name=ADAPTER)
    for layer in sizes:
        module = unet.get_submodule(layer)
        for weights in (module.lora_A[ADAPTER], module.lora_B[ADAPTER]):
            weights.float()
