"""A LoRA inside a checkpoint's networks, and out of them again."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain.noise import derive_seed
from rlr_core.config import LoraConfig
from rlr_core.errors import CheckpointError
from rlr_core.lora.files import read_lora
from rlr_core.lora.formats import ALPHA, encode
from rlr_core.lora.names import TEXT_2, UNET, Place
from rlr_core.lora.targets import loadable_layers, target_layers
from rlr_core.lora.weights import LayerWeights, LoraWeights

ADAPTER = "default"


@dataclass(frozen=True)
class LayerSize:
    """Of one layer's LoRA: its rank, and alpha as float32 can hold it."""

    rank: int
    alpha: float


def inject(networks: Mapping[str, Any], config: LoraConfig, seed: int) -> InjectedLora:
    """Put a new LoRA into a checkpoint's networks; its effect is 0 until it is trained.

    `down` is uniform on ±1/sqrt(fan-in), as in kohya and peft, from `seed` and the layer's path; `up` is 0.
    rsLoRA (arXiv 2312.03732) divides alpha by the root of the rank: files, which know only alpha / rank, get a larger alpha.
    """
    alpha = config.alpha * math.sqrt(config.rank) if config.rslora else config.alpha
    size = LayerSize(config.rank, as_float32(alpha))
    lora = InjectedLora(networks, dict.fromkeys(target_layers(networks, config), size), dora=config.dora)
    with torch.no_grad():
        for place, down, up in lora.layers():
            bound = 1 / math.sqrt(down[0].numel())
            words = (place.path,) if place.network == UNET else place
            generator = torch.Generator().manual_seed(derive_seed(seed, "lora", *words))
            down.copy_((torch.rand(down.shape, generator=generator) * 2 - 1) * bound)
            up.zero_()
    return lora


def load_lora(path: Path, networks: Mapping[str, Any]) -> InjectedLora:
    """Inject the LoRA of a file, of any format; rank, alpha and layers are the file's.

    Raises `CheckpointError`, naming the file, if it is missing, damaged, or has a layer that does not fit.
    """
    file = read_lora(path)
    places = loadable_layers(networks)
    strange = [place for place in file.weights if place not in places]
    if strange:
        raise CheckpointError(
            f"{path}: {len(file.weights) - len(strange)} of its {len(file.weights)} layers are in this checkpoint;"
            f" {len(strange)} are not, such as {'.'.join(strange[0])}",
            "a LoRA that was made for this kind of checkpoint",
            "choose another file, or the checkpoint that it was made for",
        )
    try:
        return _install(networks, {place: file.weights[place] for place in places if place in file.weights})
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} does not fit: {error}", "a LoRA for this checkpoint", "choose another file"
        ) from None


def _install(networks: Mapping[str, Any], weights: LoraWeights) -> InjectedLora:
    dora = {place for place, layer in weights.items() if layer.magnitude is not None}
    if dora and len(dora) < len(weights):
        raise CheckpointError(
            f"{len(dora)} of its {len(weights)} layers are DoRA",
            "all of them, or none",
            "choose another file",
        )
    sizes = {place: LayerSize(layer.rank, as_float32(layer.alpha)) for place, layer in weights.items()}
    lora = InjectedLora(networks, sizes, dora=bool(dora))
    try:
        lora.set_weights(weights)
    except CheckpointError:
        lora.eject()
        raise
    return lora


def as_float32(value: float) -> float:
    """The number that remains when `value` is stored in a file."""
    return float(torch.tensor(value, dtype=torch.float32))


def family_of_networks(networks: Mapping[str, Any]) -> str:
    """ "sd1", "sd2" or "sdxl"."""
    if TEXT_2 in networks:
        return "sdxl"
    return {1024: "sd2", 2048: "sdxl"}.get(networks[UNET].config.cross_attention_dim, "sd1")


class InjectedLora:
    """A LoRA that is part of the networks' forward pass.

    It computes in float32 even where the base is half precision. A network holds one LoRA at a time.

    Attributes:
        networks: "unet" and, where they have one, text encoders → the network.
        sizes: layer → rank and alpha, in the networks' order.
        dora: whether the rows' norms are learned, too (arXiv 2402.09353; its gradient takes the norm of W + ΔW for constant).
        parameters: leaf tensors that require a gradient: down, up (with DoRA: and magnitude), down, … in the order of `sizes`.
    """

    def __init__(self, networks: Mapping[str, Any], sizes: Mapping[Place, LayerSize], *, dora: bool = False):
        self.networks = {name: network for name, network in networks.items() if _has(sizes, name)}
        assert not any(hasattr(n, "peft_config") for n in self.networks.values()), (
            "eject the other LoRA first"
        )
        self.family = family_of_networks(networks) if UNET in networks else "sd1"
        self.sizes, self.dora = dict(sizes), dora
        paths = loadable_layers(self.networks)
        self._paths = {place: paths[place] for place in sizes}
        self._bases = {place: self._module(place) for place in sizes}
        self._required = [(p, p.requires_grad) for n in self.networks.values() for p in n.parameters()]
        for name, network in self.networks.items():
            chosen = {self._paths[place]: size for place, size in sizes.items() if place.network == name}
            _insert(network, chosen, dora)
        self._layers: dict[Place, Any] = {place: self._module(place) for place in sizes}
        self.parameters: list[Tensor] = [p for m in self._layers.values() for p in _tensors(m)]
        assert all(p.is_leaf and p.requires_grad and p.dtype == torch.float32 for p in self.parameters)

    def _module(self, place: Place) -> Any:
        return self.networks[place.network].get_submodule(self._paths[place])

    def layers(self) -> Iterator[tuple[Place, Tensor, Tensor]]:
        """(layer, down, up): down (r, in, …), up (out, r, …)."""
        for place, module in self._layers.items():
            yield place, module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight

    @property
    def in_text_encoder(self) -> bool:
        """Whether what the prompts are turned into depends on it."""
        return any(place.network != UNET for place in self.sizes)

    @property
    def rank(self) -> int:
        """The largest of the layers' ranks."""
        return max(size.rank for size in self.sizes.values())

    @property
    def alpha(self) -> float:
        """Alpha of the layers with the largest rank."""
        return next(size.alpha for size in self.sizes.values() if size.rank == self.rank)

    def eject(self) -> None:
        """Leave the networks as they were found, module for module; the parameters keep their values."""
        for place, base in self._bases.items():
            self.networks[place.network].set_submodule(self._paths[place], base)
        for parameter, required in self._required:
            parameter.requires_grad_(required)
        for network in self.networks.values():
            del network.peft_config

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
        with ExitStack() as stack:
            for module in self._layers.values():
                if self.dora:
                    stack.callback(module.register_forward_hook(_Blend(strength)).remove)
                else:
                    stack.callback(module.scaling.__setitem__, ADAPTER, module.scaling[ADAPTER])
                    module.scaling[ADAPTER] *= strength
            yield

    def weights(self) -> LoraWeights:
        """Copies on the CPU, float32."""
        return {place: self._weights_of(place) for place in self.sizes}

    def _weights_of(self, place: Place) -> LayerWeights:
        down, up, *magnitude = (p.detach().cpu().clone().contiguous() for p in _tensors(self._layers[place]))
        norms = magnitude[0].reshape(-1, *[1] * (up.dim() - 1)) if magnitude else None
        return LayerWeights(down, up, self.sizes[place].alpha, norms)

    def set_weights(self, weights: LoraWeights) -> None:
        """The inverse of `weights`. Raises `CheckpointError`, and changes nothing, where they do not fit."""
        values = {place: _values(weights[place]) for place in self.sizes}
        for place, tensors in values.items():
            _check_values(place, tensors, [tuple(p.shape) for p in _tensors(self._layers[place])])
        with torch.no_grad():
            for place, tensors in values.items():
                for p, value in zip(_tensors(self._layers[place]), tensors, strict=True):
                    p.copy_(value.reshape(p.shape))

    def state_dict(self) -> dict[str, Tensor]:
        """`weights` under kohya's names: down, up, alpha and, with DoRA, dora_scale."""
        return encode(self.weights(), "kohya", self.family)[0]

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`.

        Raises `CheckpointError`, and changes nothing, if `state` is of another LoRA or not finite.
        """
        own = self.state_dict()
        _check_state(state, own)
        layers = {}
        for place, layer in self.weights().items():
            names = encode({place: layer}, "kohya", self.family)[0]
            down, up, *rest = (state[name] for name in names)
            layers[place] = LayerWeights(down, up, layer.alpha, rest[0] if self.dora else None)
        self.set_weights(layers)


@dataclass(frozen=True)
class _Blend:
    """A forward hook: a straight line from the base layer's output to that with the LoRA."""

    strength: float

    def __call__(self, module: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        base = module.base_layer(*inputs)
        return base + self.strength * (output - base)


def _has(sizes: Mapping[Place, LayerSize], network: str) -> bool:
    return any(place.network == network for place in sizes)


def _tensors(module: Any) -> list[Tensor]:
    """down, up and, with DoRA, magnitude, of a layer that peft has wrapped."""
    parts = [module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight]
    return parts + [module.lora_magnitude_vector[name].weight for name in module.lora_magnitude_vector]


def _values(layer: LayerWeights) -> list[Tensor]:
    return [layer.down, layer.up, *([] if layer.magnitude is None else [layer.magnitude])]


DO = "use the file with the config that it was made with"


def _check_values(place: Place, values: list[Tensor], shapes: list[tuple[int, ...]]) -> None:
    """A 1 × 1 convolution and a linear layer have the same numbers; else shapes are equal."""
    if not all(bool(value.isfinite().all()) for value in values):
        raise CheckpointError(
            f"{'.'.join(place)} holds NaN or infinity", "finite numbers", "use an earlier checkpoint"
        )
    for value, shape in zip(values, shapes, strict=True):
        if tuple(value.squeeze().shape) != tuple(torch.empty(shape, device="meta").squeeze().shape):
            raise CheckpointError(f"{'.'.join(place)} of shape {tuple(value.shape)}", f"shape {shape}", DO)


def _check_state(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    if state.keys() != own.keys():
        strange, absent = sorted(state.keys() - own.keys()), sorted(own.keys() - state.keys())
        raise CheckpointError(
            f"{len(strange)} unknown and {len(absent)} missing tensors ({(strange + absent)[0]}, …)",
            f"the {len(own)} tensors of this LoRA",
            DO,
        )
    for name, value in own.items():
        if state[name].shape != value.shape:
            raise CheckpointError(
                f"{name} of shape {tuple(state[name].shape)}", f"shape {tuple(value.shape)}", DO
            )
        if name.endswith(ALPHA) and not torch.equal(state[name].float().cpu(), value):
            raise CheckpointError(f"{name} = {float(state[name]):g}", f"{float(value):g}", DO)


def _insert(network: Any, sizes: Mapping[str, LayerSize], dora: bool) -> None:
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
