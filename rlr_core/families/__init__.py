"""What is known of each family of models, in one place: a folder for each, below the rooms that load models and write LoRAs.

A family of checkpoints that we load is in `FAMILIES`. What LoRA files know of a family is a `LoraFamily`; a host that brings a
model of its own brings one along, as `GenericFamily` for models that nobody has described.
"""

from collections.abc import Iterable

from rlr_core.families.component import Component, Place, Role
from rlr_core.families.defaults import Default, Defaults
from rlr_core.families.generic import GenericFamily
from rlr_core.families.lora_family import Adaptable, LoraFamily
from rlr_core.families.sd1 import SD1
from rlr_core.families.sd2 import SD2
from rlr_core.families.sdxl import SDXL
from rlr_core.families.stable_diffusion.family import StableDiffusionFamily

FAMILIES: dict[str, StableDiffusionFamily] = {family.key: family for family in (SD1, SD2, SDXL)}
"""Key → the families of Stable Diffusion that we load."""
assert len({family.context for family in FAMILIES.values()}) == len(FAMILIES), (
    "checkpoints tell their family by the width of the text that their UNet reads (`widths`): two have the same"
)
OTHER_FAMILIES: tuple[LoraFamily, ...] = ()
"""The families of other architectures, as LoRA files know them."""


def lora_families() -> dict[str, LoraFamily]:
    """Key → the families whose LoRA files are read."""
    return {family.key: family for family in (*(each.lora for each in FAMILIES.values()), *OTHER_FAMILIES)}


def any_of(words: Iterable[str]) -> str:
    """ "a, b or c", for messages."""
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} or {last}" if first else last


__all__ = [
    "FAMILIES", "OTHER_FAMILIES", "SD1", "SD2", "SDXL", "Adaptable", "Component", "Default", "Defaults", "GenericFamily",
    "LoraFamily", "Place", "Role", "StableDiffusionFamily", "any_of", "lora_families",
]  # fmt: skip
