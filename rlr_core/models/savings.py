"""A model that needs less memory, as [memory] says; its networks are as before when it is left.

None of it changes what the model is; autocast rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Denoiser, Level, Prediction
from rlr_core.config import MemoryConfig
from rlr_core.errors import ConfigError
from rlr_core.families import Role
from rlr_core.models.model import Model, WrappedModel, networks_of

OFF = {"autocast": "off", "checkpoint_denoiser": False, "decoder": "keep", "offload": "none"}
"""Settings of [memory] that are a model's affair → the value that does nothing."""


@dataclass
class Guests:
    """Networks that are on the card only while they are used: they come when they are called, and `leave` together.

    A network whose graph is still waiting for its backward pass must not leave.
    """

    device: torch.device
    present: list[Any] = field(default_factory=list)

    def invited(self, networks: Sequence[Any], function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, which `networks` come for."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for network in networks:
                if network not in self.present:
                    self.present.append(network.to(self.device))
            return function(*args, **kwargs)

        return call

    def leave(self) -> None:
        """To main memory, all of them."""
        while self.present:
            self.present.pop().to("cpu")


@contextmanager
def saving_memory(model: Model, settings: MemoryConfig, guests: Guests) -> Iterator[Model]:
    """The model with `settings`; text encoders and rewards are the trainer's matter.

    Args:
        guests: networks that come and go, the decoder among them if everything does.

    Raises:
        ConfigError: a setting that the model does not take.
    """
    _check_taken(model, settings)
    with ExitStack() as stack:
        for setting in ("checkpoint_denoiser", "decoder"):
            value = getattr(settings, setting)
            if value != OFF[setting]:
                stack.enter_context(model.saving(setting, value))
        if settings.offload == "all":
            stack.enter_context(away(networks_of(model, Role.DECODER), model.device))
        yield ThriftyModel(model, settings, guests)


def _check_taken(model: Model, settings: MemoryConfig) -> None:
    for setting, nothing in OFF.items():
        value = getattr(settings, setting)
        if value != nothing and setting not in model.savings:
            raise ConfigError(
                f"memory.{setting} = {value!r} with the model {model.name}, which does not take it",
                f"settings of [memory] that it takes: {', '.join(model.savings) or 'none'}",
                f"leave memory.{setting} at its default",
            )


@contextmanager
def away(networks: Sequence[Any], home: torch.device) -> Iterator[None]:
    """Inside, the networks are in main memory; afterwards on `home` again."""
    for network in networks:
        network.to("cpu")
    try:
        yield
    finally:
        for network in networks:
            network.to(home)


@dataclass(frozen=True)
class ThriftyModel(WrappedModel):
    """A model whose denoiser may compute in a lower precision, and whose networks may take turns on the card."""

    settings: MemoryConfig
    guests: Guests

    def denoiser(self, guidance_scale: float) -> Denoiser:
        denoiser = self.model.denoiser(guidance_scale)
        if self.settings.autocast != "off":
            denoiser = Autocasting(denoiser, self.device.type, getattr(torch, self.settings.autocast))
        return Alone(denoiser, self.guests) if self.settings.offload == "all" else denoiser

    def decode(self, latents: Tensor) -> Tensor:
        if self.settings.offload != "all":
            return self.model.decode(latents)
        return self.guests.invited(networks_of(self.model, Role.DECODER), self.model.decode)(latents)


@dataclass(frozen=True)
class Autocasting:
    """A denoiser under torch's autocast. `meta` has none of its own: there the CPU's switch stands for it."""

    denoiser: Denoiser
    device: str
    dtype: torch.dtype

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        with torch.autocast("cpu" if self.device == "meta" else self.device, self.dtype):
            return self.denoiser(x, level, conditioning)


@dataclass(frozen=True)
class Alone:
    """A denoiser, before which all guests leave."""

    denoiser: Denoiser
    guests: Guests

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        self.guests.leave()
        return self.denoiser(x, level, conditioning)
