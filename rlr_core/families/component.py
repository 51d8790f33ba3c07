"""What a model is made of: named networks, each with a role."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple


class Role(Enum):
    """What a network of a model does."""

    DENOISER = "denoiser"
    TEXT_ENCODER = "text encoder"
    DECODER = "decoder"


@dataclass(frozen=True)
class Component:
    """A network of a model.

    Attributes:
        name: what LoRA files call it, as "unet".
        role: what it does.
        network: the module itself.
    """

    name: str
    role: Role
    network: Any


class Place(NamedTuple):
    """A layer of a model: the component that it is in, as "unet", and its path there, in the words of LoRA files."""

    network: str
    path: str
