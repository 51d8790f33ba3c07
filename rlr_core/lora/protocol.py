"""What the trainer needs of a LoRA, whoever put it into a model's networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor

from rlr_core.families import LoraFamily
from rlr_core.lora.weights import LoraWeights


class Lora(Protocol):
    """A LoRA that is part of its networks' forward pass."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """Leaf tensors that require a gradient."""
        ...

    @property
    def family(self) -> LoraFamily:
        """Of the model that it is in: it names the layers in files."""
        ...

    @property
    def rank(self) -> int:
        """The largest of the layers' ranks."""
        ...

    @property
    def in_text_encoder(self) -> bool:
        """Whether what the prompts are turned into depends on it."""
        ...

    def weights(self) -> LoraWeights:
        """Copies on the CPU, float32."""
        ...

    def set_weights(self, weights: LoraWeights) -> None:
        """The inverse of `weights`. Raises `CheckpointError`, and changes nothing, where they do not fit."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Copies on the CPU of all that `load_state_dict` needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`. Raises `CheckpointError`, and changes nothing, if `state` is of another LoRA."""
        ...

    def disabled(self) -> AbstractContextManager[None]:
        """Inside, the base model, to the last bit."""
        ...

    def eject(self) -> None:
        """Leave the networks as they were found; the parameters keep their values."""
        ...
