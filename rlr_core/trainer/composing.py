"""A config composed of its layers: built-in defaults, those of the checkpoint's family, preset, file, command line.

The family is read off the checkpoint's header or configs, in milliseconds; no weights are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlr_core.config import ModelConfig, RunConfig, Tables, from_dict, layered, merged
from rlr_core.families import Default, Defaults
from rlr_core.models.describing import family_of_checkpoint
from rlr_core.storage import user_path
from rlr_core.trainer.devices import choose_device, half_precision


@dataclass(frozen=True)
class Composed:
    """A config, and where its values come from.

    Attributes:
        chosen: what its author set: by a preset, a file, or on the command line.
        reasons: setting → why its default is another one than the built-in; those of the checkpoint's family.
    """

    config: RunConfig
    chosen: Tables
    reasons: Mapping[str, str]


def composed(
    file: Path | None = None, overrides: Sequence[str | Tables] = (), preset: str = "", device: str = ""
) -> Composed:
    """Compose the layers; see `layered`. Raises `ConfigError`, or `CheckpointError` for what cannot be trained on.

    Args:
        device: that the defaults are for, as "cuda"; "" is the config's own.
    """
    chosen = layered(file, overrides, preset)
    model = from_dict(chosen, "the overrides").model
    defaults = defaults_for(model, device or str(choose_device(model.device)))
    base: Tables = {}
    for name, default in defaults.items():
        section, _, key = name.partition(".")
        base = merged(base, {section: {key: default.value}})
    reasons = {name: default.why for name, default in defaults.items()}
    return Composed(from_dict(merged(base, chosen), "the overrides"), chosen, reasons)


def defaults_for(model: ModelConfig, device: str) -> Defaults:
    """Of a checkpoint's family on a device; none for the embedded one, which the built-in ones are for."""
    if model.checkpoint == "embedded":
        return {}
    family = family_of_checkpoint(user_path(model.checkpoint), allow_pickle=model.allow_pickle)
    half = half_precision(device)
    precision = {"model.precision": Default(half, "half the memory of float32, and this card is fast in it")}
    return {**(family.defaults if family else {}), **(precision if half else {})}
