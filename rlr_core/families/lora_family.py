"""What LoRA files of a family look like: the names of layers, what targets mean, what the metadata say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from rlr_core.families.component import Component, Place, Role

NAMED_IN = "ss_base_model_version", "modelspec.architecture"
"""Where the metadata of LoRA files name the model that they are for."""


class LoraFamily(ABC):
    """A family of models as LoRA files know it.

    Attributes:
        key: short and unique, as "sdxl"; a command line's `--family`.
        title: for people.
        card: what A1111 and Forge call the family on a LoRA's card.
        formats: in which its LoRAs are written; the first one is what hosts read best.
        targets: `lora.targets` → pattern that a whole path in the denoiser has to match.
        text_targets: the same for paths in a text encoder, "" where none is trained.
        implementation: whose names and arithmetic it has (`modelspec.implementation`), "" for none that is known.
        marks: how the model's name may begin in the metadata of other programs' LoRAs of it.
        tensors: component → how the names of its weights begin in a checkpoint file, the layer's path following; of what a LoRA
            can be merged into.
    """

    key: str
    title: str
    card: str
    formats: tuple[str, ...]
    targets: Mapping[str, str]
    text_targets: str
    implementation: str = ""
    marks: tuple[str, ...] = ()
    tensors: Mapping[str, str] = {}

    @abstractmethod
    def stem(self, place: Place, format: str) -> str:
        """What a layer is called in a file of a format of `formats`, without the ending that says which tensor it is.

        Raises `KeyError` for a layer that has no name there.
        """

    @abstractmethod
    def read(self, stem: str) -> tuple[str, Place] | None:
        """The inverse of `stem`: format and layer, other programs' spellings included; None where it is not understood."""

    @abstractmethod
    def place(self, network: str, role: Role, path: str) -> Place:
        """The layer at a module's path in a network as a host has it. Raises `KeyError` for one that is not the family's."""

    @abstractmethod
    def metadata(self, prediction: str | None) -> dict[str, str]:
        """Which family a file belongs to (sd-scripts, ModelSpec 1.0.1); all values are texts.

        Args:
            prediction: what the denoiser predicts, as "epsilon"; None where that is not known.
        """

    def has(self, place: Place, inputs: int, outputs: int) -> bool | None:
        """Whether there is a layer of that size at `place`: True tells the family, None says that it does not tell."""
        return None

    def claims(self, metadata: Mapping[str, str]) -> bool:
        """Whether the metadata of another program's LoRA name the family."""
        return any(metadata.get(key, "").startswith(self.marks) for key in NAMED_IN)

    def writes(self, metadata: Mapping[str, str]) -> bool:
        """Whether they name it as its own files do."""
        own = [self.metadata(prediction) for prediction in (None, "epsilon", "v_prediction")]
        return any(key in metadata and metadata[key] == facts.get(key) for facts in own for key in NAMED_IN)


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
