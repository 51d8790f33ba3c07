"""Which families understand the names in a LoRA file; a file that none understands is refused by what it is.

What lies beside a LoRA, and is none of it, is left out with a note.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn, TypeVar

from rlr_core.errors import CheckpointError
from rlr_core.families import LoraFamily, any_of
from rlr_core.lora.formats import adapter_of, role_of
from rlr_core.safetensors_header import shown

OTHER_KINDS = {
    ".hada_w1_a": "a LoHa", ".lokr_w1": "a LoKr", ".lokr_w1_a": "a LoKr", ".oft_blocks": "an OFT", ".on_input": "an IA3",
    ".lora_mid.weight": "a LoRA with a Tucker core", ".diff": "a set of whole weights", ".a1.weight": "a GLoRA",
}  # fmt: skip
"""Ending of a key → the adapter that it is of, which is none that is read here."""
BESIDE_A_LORA = {
    "embeddings": re.compile(r"bundle_emb\.|(emb_params|clip_[lgh])$"),
    "an optimizer's state": re.compile(
        r"(optimizer|optim|lr_scheduler|grad_scaler|scaler)[._]|.*\.(exp_avg|exp_avg_sq|max_exp_avg_sq|momentum_buffer)$"
    ),
    "counters": re.compile(r"(global_step|step|steps|epoch|iteration|num_updates)$"),
    "positions": re.compile(r".*[._]position_ids$"),
}
"""What trainers leave beside a LoRA, and no effect of it depends on → the names of its tensors."""
UNREAD_FAMILIES = {
    "double_blocks": "FLUX", "single_blocks": "FLUX", "single_transformer_blocks": "FLUX", "joint_blocks": "Stable Diffusion 3",
    "transformer.transformer_blocks": "Stable Diffusion 3 or FLUX", "motion_modules": "AnimateDiff", "cross_attn_": "Wan",
}  # fmt: skip
"""Part of a key → a family whose LoRAs are not read here."""


Value = TypeVar("Value")


def of_the_lora(tensors: Mapping[str, Value], source: str) -> dict[str, Value]:
    """Those tensors that are the LoRA; a warning says what the others are. Raises `CheckpointError` for several LoRAs."""
    kinds = {name: _beside_a_lora(name) for name in tensors}
    others = [name for name, kind in kinds.items() if kind]
    if others and len(others) < len(kinds):
        what = ", ".join(dict.fromkeys(kinds[name] for name in others))
        warnings.warn(
            f"{source}: {len(others)} of its {len(kinds)} tensors are no part of the LoRA, and are left out: {what}, "
            f"such as {shown(others[0])}",
            stacklevel=4,
        )
        tensors = {name: value for name, value in tensors.items() if not kinds[name]}
    adapters = {adapter_of(name) for name in tensors}
    if len(adapters - {""}) > 1:
        raise CheckpointError(
            f"{source} has several LoRAs: {shown(', '.join(sorted(adapters)))}",
            "one",
            "save each by itself (peft's `save_pretrained`, with `selected_adapters`)",
        )
    return dict(tensors)


def _beside_a_lora(name: str) -> str:
    return next((kind for kind, names in BESIDE_A_LORA.items() if names.match(name)), "")


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
