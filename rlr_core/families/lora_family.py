"""What LoRA files of a family look like: the names of layers, what targets mean, what the metadata say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from rlr_core.families.component import Component, Place, Role


class LoraFamily(ABC):
    """A family of models as LoRA files know it.

    Attributes:
        key: short and unique, as "sdxl"; a command line's `--family`.
        title: for people.
        card: what A1111 and Forge call the family on a LoRA's card.
        formats: in which its LoRAs are written; the first one is what hosts read best.
        targets: `lora.targets` → pattern that a whole path in the denoiser has to match.
        text_targets: the same for paths in a text encoder, "" where none is trained.
    """

    key: str
    title: str
    card: str
    formats: tuple[str, ...]
    targets: Mapping[str, str]
    text_targets: str

    @abstractmethod
    def stem(self, place: Place, format: str) -> str:
        """What a layer is called in a file of a format of `formats`, without the ending that says which tensor it is.

        Raises `KeyError` for a layer that has no name there.
        """

    @abstractmethod
    def place(self, network: str, role: Role, path: str) -> Place:
        """The layer at a module's path in a network as a host has it. Raises `KeyError` for one that is not the family's."""

    @abstractmethod
    def metadata(self, prediction: str | None) -> dict[str, str]:
        """Which family a file belongs to (sd-scripts, ModelSpec 1.0.1); all values are texts.

        Args:
            prediction: what the denoiser predicts, as "epsilon"; None where that is not known.
        """


class Adaptable(Protocol):
    """A model that a LoRA can be put into."""

    @property
    def components(self) -> Sequence[Component]:
        """Its networks with their roles."""
        ...

    @property
    def lora_family(self) -> LoraFamily:
        """What LoRA files know of its family."""
        ...
