"""Which families understand the names in a LoRA file; a file that none understands is refused by what it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NoReturn

from rlr_core.errors import CheckpointError
from rlr_core.families import LoraFamily, any_of
from rlr_core.lora.formats import role_of
from rlr_core.safetensors_header import shown

OTHER_KINDS = {
    ".hada_w1_a": "a LoHa", ".lokr_w1": "a LoKr", ".lokr_w1_a": "a LoKr", ".oft_blocks": "an OFT", ".on_input": "an IA3",
    ".lora_mid.weight": "a LoRA with a Tucker core", ".diff": "a set of whole weights", ".a1.weight": "a GLoRA",
}  # fmt: skip
"""Ending of a key → the adapter that it is of, which is none that is read here."""
UNREAD_FAMILIES = {
    "double_blocks": "FLUX", "single_blocks": "FLUX", "single_transformer_blocks": "FLUX", "joint_blocks": "Stable Diffusion 3",
    "transformer.transformer_blocks": "Stable Diffusion 3 or FLUX", "motion_modules": "AnimateDiff", "cross_attn_": "Wan",
}  # fmt: skip
"""Part of a key → a family whose LoRAs are not read here."""


def readers(families: Sequence[LoraFamily], keys: Iterable[str], source: str) -> list[LoraFamily]:
    """Those of `families` that understand all keys.

    Raises `CheckpointError` where there is none, saying what the file is if that is known.
    """
    names = list(keys)
    roles = {key: role_of(key) for key in names}
    strange = [
        [key for key, role in roles.items() if role is None or family.read(role[0]) is None]
        for family in families
    ]
    found = [family for family, rest in zip(families, strange, strict=True) if names and not rest]
    if not found:
        _refuse_strange(min(strange, key=len), names, families, source)
    return found


def same_words(families: Sequence[LoraFamily], reader: LoraFamily, keys: Iterable[str]) -> list[LoraFamily]:
    """Those of `families`, which understand all keys, that understand by them what `reader` does."""
    stems = {role[0] for role in map(role_of, keys) if role}
    return [each for each in families if all(each.read(stem) == reader.read(stem) for stem in stems)]


def _refuse_strange(
    strange: list[str], names: list[str], families: Sequence[LoraFamily], source: str
) -> NoReturn:
    """Raise `CheckpointError`; `strange` are the names that the family which understands most does not."""
    known = any_of(family.title for family in families)
    what = next((word for key in names for end, word in OTHER_KINDS.items() if key.endswith(end)), "")
    family = next((word for key in names for part, word in UNREAD_FAMILIES.items() if part in key), "")
    told = f"{source} is {what}" if what else f"{source} is a LoRA for {family}" if family else ""
    counted = f"{len(names) - len(strange)} of its {len(names)} tensors are those of a LoRA for {known}"
    example = f"; {len(strange)} are not, such as {shown(strange[0])}" if strange else ""
    raise CheckpointError(
        told or f"{source}: {counted}{example}",
        f"a LoRA for {known}, with the keys of {any_of(kind for family in families for kind in family.formats)}",
        "choose another file",
    )
