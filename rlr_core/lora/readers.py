"""Which families understand the names in a LoRA file; a file that none understands is refused by what it is.

What lies beside a LoRA, and is none of it, is left out with a note.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn, Protocol, TypeVar

from rlr_core.errors import CheckpointError
from rlr_core.families import LoraFamily, any_of
from rlr_core.lora.formats import adapter_of, role_of
from rlr_core.safetensors_header import shown

OTHER_KINDS = {
    ".a1.weight": "a GLoRA of LyCORIS",
    ".q_layer.weight": "a T-LoRA of LyCORIS", ".w_norm": "an adapter of LyCORIS with norms of its own (train_norm)",
    ".b_norm": "an adapter of LyCORIS with norms of its own (train_norm)",
    ".scalar": "an adapter of LyCORIS with a scalar apart", ".vera_lambda_d": "a VeRA of peft", ".ia3_l": "an (IA)³ of peft",
    ".boft_R": "a BOFT of peft", ".oft_R.weight": "an OFT of peft", ".lora_B.bias": "a LoRA of peft with biases (lora_bias)",
    ".reshape_weight": "a LoRA that changes a layer's size",
    ".set_weight": "a set of weights that replace a checkpoint's",
}  # fmt: skip
"""Ending of a key → the adapter that it is of, which is none that is read here."""
OFT = {3: "a Diag-OFT of LyCORIS", 4: "a BOFT of LyCORIS"}
"""Dimensions of `oft_blocks`: (blocks, size, size), and (factors, blocks, size, size)."""
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


class Shaped(Protocol):
    """A tensor, or what a header says of it."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def readers(families: Sequence[LoraFamily], tensors: Mapping[str, Shaped], source: str) -> list[LoraFamily]:
    """Those of `families` that understand all names of tensors.

    Raises `CheckpointError` where there is none, saying what the file is if that is known.
    """
    roles = {key: role_of(key) for key in tensors}
    strange = [
        [key for key, role in roles.items() if role is None or family.read(role[0]) is None]
        for family in families
    ]
    found = [family for family, rest in zip(families, strange, strict=True) if tensors and not rest]
    if not found:
        _refuse_strange(min(strange, key=len), tensors, families, source)
    return found


def same_words(families: Sequence[LoraFamily], reader: LoraFamily, keys: Iterable[str]) -> list[LoraFamily]:
    """Those of `families`, which understand all keys, that understand by them what `reader` does."""
    stems = {role[0] for role in map(role_of, keys) if role}
    return [each for each in families if all(each.read(stem) == reader.read(stem) for stem in stems)]


def _other_kind(key: str, tensor: Shaped) -> str:
    if key.endswith((".oft_blocks", ".oft_diag")):  # LyCORIS's name, and its older one
        return OFT.get(len(tensor.shape), "an OFT")
    return next((word for end, word in OTHER_KINDS.items() if key.endswith(end)), "")


def _refuse_strange(
    strange: list[str], names: Mapping[str, Shaped], families: Sequence[LoraFamily], source: str
) -> NoReturn:
    """Raise `CheckpointError`; `strange` are the names that the family which understands most does not."""
    known = any_of(family.title for family in families)
    what = next(filter(None, (_other_kind(key, tensor) for key, tensor in names.items())), "")
    family = next((word for key in names for part, word in UNREAD_FAMILIES.items() if part in key), "")
    told = f"{source} is {what}" if what else f"{source} is a LoRA for {family}" if family else ""
    counted = f"{len(names) - len(strange)} of its {len(names)} tensors are those of a LoRA for {known}"
    example = f"; {len(strange)} are not, such as {shown(strange[0])}" if strange else ""
    formats = [kind for family in families for kind in family.formats]
    raise CheckpointError(
        told or f"{source}: {counted}{example}",
        f"a LoRA, LoHa, LoKr, full weights or (IA)³ for {known}, with the keys of {any_of(formats)}",
        "choose another file",
    )
