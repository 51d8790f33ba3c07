"""What peft's configs say of a LoRA: its scale, which the tensors do not have, and what would make it something else.

A config is `adapter_config.json` beside peft's `adapter_model.safetensors`, or is in diffusers' metadata
`lora_adapter_metadata`, where each key has its network before it ("unet.lora_alpha").
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlr_core.errors import CheckpointError
from rlr_core.families import Place
from rlr_core.safetensors_header import shown
from rlr_core.storage import read_text

ADAPTER_METADATA = "lora_adapter_metadata"
BESIDE, BESIDE_OF = "adapter_config.json", "adapter_model.safetensors"
MOST_PATTERNS = 5000
"""Layers that a file's metadata name; no network has as many."""
LONGEST = 2**20
"""Bytes of a config; real ones have some thousands."""
CHANGED_BASES = "pissa", "corda", "olora", "loftq", "lora_ga"
"""Ways to begin (`init_lora_weights`) that take the LoRA's start out of the checkpoint (peft, `tuners/lora/layer.py`)."""
OTHER_LAYERS = (
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "arrow_config",
    "alora_invocation_tokens",
    "layer_replication",
)
"""Settings with which a layer computes something else than W + alpha/rank · up·down."""


def beside(path: Path) -> dict[str, str]:
    """The config that lies beside a file, as metadata; a file of another name it is only for where there is no other.

    Raises `CheckpointError` naming the config where it cannot be read.
    """
    config = path.parent / BESIDE
    alone = [path] == sorted(path.parent.glob("*.safetensors"))
    if not config.is_file() or not (path.name == BESIDE_OF or alone):
        return {}
    try:
        return {ADAPTER_METADATA: read_text(config, LONGEST)}
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{config}, which has the scale of {path.name}, cannot be read ({error})",
            "peft's JSON",
            "copy or download it again",
        ) from None


def config_facts(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """What the configs say, under keys as "unet.lora_alpha", or "lora_alpha" for all networks. Raises `CheckpointError`."""
    text = metadata.get(ADAPTER_METADATA)
    if text is None:
        return {}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise CheckpointError(
            f"{source} has damaged metadata: {ADAPTER_METADATA} is no JSON", "JSON", "choose another file"
        ) from None
    facts = values if isinstance(values, dict) else {}
    if any(isinstance(value, dict) and len(value) > MOST_PATTERNS for value in facts.values()):
        raise CheckpointError(
            f"{source} has damaged metadata: {ADAPTER_METADATA} names too many layers",
            f"at most {MOST_PATTERNS}",
            "choose another file",
        )
    return facts


def refuse_other_types(metadata: Mapping[str, str], source: str) -> None:
    """Raise `CheckpointError` for a config of another of peft's types than LoRA."""
    for name, kind in config_facts(metadata, source).items():
        if name.split(".")[-1] == "peft_type" and kind not in ("LORA", None):
            _refuse(source, f"an adapter of peft's type {shown(kind)}")


def refuse_other_adapters(
    facts: Mapping[str, Any], networks: Iterable[str], dora: set[str], source: str
) -> None:
    """Raise `CheckpointError` for a config of something else than the LoRA, or DoRA, that the tensors make.

    Args:
        dora: those of `networks` which have norms.
    """
    for network in networks:
        start = _told(facts, network, "init_lora_weights")
        others = [name for name in OTHER_LAYERS if _told(facts, network, name)]
        if isinstance(start, str) and start.lower().startswith(CHANGED_BASES):
            _refuse(source, f"a LoRA for a checkpoint that {shown(start)} has changed (init_lora_weights)")
        if others:
            _refuse(source, f"a LoRA with {', '.join(others)}")
        if _told(facts, network, "use_dora") is True and network not in dora:
            _refuse(source, "a DoRA (use_dora) without its norms")


def _refuse(source: str, what: str) -> None:
    raise CheckpointError(
        f"{source} is {what}, as its config says", "a LoRA for an unchanged checkpoint", "choose another file"
    )


def tells_alpha(facts: Mapping[str, Any], network: str) -> bool:
    """Whether a config tells the scale of a network's layers."""
    return f"{network}.lora_alpha" in facts or "lora_alpha" in facts


def told_alpha(facts: Mapping[str, Any], place: Place, rank: int, source: str) -> float:
    """Alpha of a layer, so that alpha / rank is its scale; NaN for no number. rsLoRA divides by the root of the rank.

    Raises `CheckpointError` for a config that has another rank for the layer, or a pattern that is not tried.
    """
    ranks, alphas = (_patterns(facts, place.network, f"{name}_pattern") for name in ("rank", "alpha"))
    expected = _of_layer(ranks, place, _told(facts, place.network, "r", rank), source)
    if expected != rank:
        raise CheckpointError(
            f"{source}: {place.path} has the rank {rank}, and {shown(expected)} by its config",
            "the config of the same LoRA",
            "copy or download both again",
        )
    value = _of_layer(alphas, place, _told(facts, place.network, "lora_alpha", rank), source)
    alpha = (
        float(value) if isinstance(value, float) or (type(value) is int and abs(value) < 2**63) else math.nan
    )
    return alpha * math.sqrt(rank) if _told(facts, place.network, "use_rslora") is True else alpha


def _told(facts: Mapping[str, Any], network: str, name: str, default: Any = None) -> Any:
    return facts.get(f"{network}.{name}", facts.get(name, default))


def _patterns(facts: Mapping[str, Any], network: str, name: str) -> dict[str, Any]:
    patterns = _told(facts, network, name)
    return patterns if isinstance(patterns, dict) else {}


def _of_layer(patterns: Mapping[str, Any], place: Place, usual: Any, source: str) -> Any:
    """The first pattern that fits counts, as in peft (`get_pattern_key`): a regular expression for a path or its end."""
    words = place.path.split(".")
    ends = [".".join(words[k:]) for k in range(len(words))]
    return next((value for name, value in patterns.items() if _matches(name, ends, source)), usual)


def _matches(pattern: str, ends: Sequence[str], source: str) -> bool:
    """Whether a pattern fits one of a path's ends, the first of which is the whole."""
    if re.fullmatch(r"[\w.]*", pattern):  # without compiling it: there may be thousands
        same = (end for end in ends if len(end) == len(pattern))
        return any(
            all(wanted in (letter, ".") for wanted, letter in zip(pattern, end, strict=True)) for end in same
        )
    try:
        # What repeats a group, or repeats often, may take for ever: the file may come from anywhere.
        if len(pattern) > 200 or re.search(r"\)[*+?{]|([*+{].*){5}", pattern, re.DOTALL):
            raise ValueError
        return any(re.match(rf"({pattern})$", end) for end in ends)
    except (ValueError, re.error, RecursionError, OverflowError):
        raise CheckpointError(
            f"{source}: the config has a pattern for layers that is not tried: {shown(pattern)}",
            "paths of layers, or simple regular expressions",
            "choose another file",
        ) from None
