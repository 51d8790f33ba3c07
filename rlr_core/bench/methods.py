"""The methods of a study: named settings on top of a base config, read from a TOML file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlr_core.bench.beds import EMBEDDED
from rlr_core.config import RunConfig, from_dict, layered, merged, to_dict
from rlr_core.errors import ConfigError
from rlr_core.estimators import unread_settings
from rlr_core.storage import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHIPPED = Path(__file__).with_name("methods.toml")
"""Ours, the paper's ablations and the rivals."""
LONGEST = 2**20
"""Bytes of a methods file."""
UNGUARDED = {"training": {"max_kl": 0.0, "backtrack": False}}
"""What a method has unless it says otherwise: rivals are measured without our guards."""
OWN = ("label", "learning_rates", "preset", "seeds")
"""Keys of a method that are not sections of a config."""


@dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
        name: its key in the file.
        label: for people.
        settings: sections of a config that differ from the base.
        learning_rates: the grid that its best learning rate is looked for in.
        seeds: that its learning curve is the mean of.
    """

    name: str
    label: str
    settings: dict[str, dict[str, Any]]
    learning_rates: tuple[float, ...]
    seeds: int

    def config(self, base: dict[str, dict[str, Any]], *changes: dict[str, dict[str, Any]]) -> RunConfig:
        """The base config with the method's settings, then with `changes`."""
        return from_dict(merged(base, self.settings, *changes), f"method '{self.name}'")


def relevant(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings that a job's result depends on: not what a run writes, nor what its estimator does not read.

    Raises `ConfigError` where one of them is not valid today.
    """
    unread = unread_settings(from_dict({"estimator": {"name": tables["estimator"]["name"]}}).estimator)
    estimator = {name: value for name, value in tables["estimator"].items() if name not in unread}
    config = from_dict({**tables, "estimator": estimator})
    settings = to_dict(config)
    del settings["output"]
    if config.training.schedule == "constant":
        del settings["training"]["iterations"]  # a job ends with its budget
    for name in unread:
        del settings["estimator"][name]
    return settings


def read_methods(path: Path = SHIPPED) -> dict[str, Method]:
    """The methods of a file, in its order. Raises `ConfigError`."""
    try:
        table = tomllib.loads(read_text(path, LONGEST))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the methods file {path} cannot be read: {error}", "a TOML file", f"compare it with {SHIPPED}"
        ) from None
    shared = table.pop("all", {})
    return {name: _method(name, shared, entry) for name, entry in table.items()}


def _method(name: str, shared: dict[str, Any], entry: Any) -> Method:
    if not isinstance(entry, dict) or not all(isinstance(value, dict) for value in _sections(entry).values()):
        raise ConfigError(
            f"the method '{name}' is {entry!r}",
            f"a table with sections of settings, and perhaps {', '.join(OWN)}",
            f"compare it with {SHIPPED}",
        )
    rates = tuple(entry.get("learning_rates", shared.get("learning_rates", (2e-3,))))
    settings = layered(
        None, [_sections(entry)], entry.get("preset", ""), merged(UNGUARDED, _sections(shared))
    )
    seeds = entry.get("seeds", shared.get("seeds", 5))
    method = Method(name, entry.get("label", name), settings, rates, seeds)
    method.config(EMBEDDED.settings)  # refuses what is unknown
    return method


def _sections(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in OWN}
