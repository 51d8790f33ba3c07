"""What a command trains on: a checkpoint, a reward and prompts by options of their own, a config, a preset, and `--set`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlr_core.config import PRESETS, Tables, parse_override, preset, read_settings
from rlr_core.errors import ConfigError, PromptError
from rlr_core.storage import user_path

if TYPE_CHECKING:
    from rlr_core.trainer.composing import Composed

NAMED = {
    "--checkpoint": "model.checkpoint",
    "--reward": "reward.name",
    "--prompts": "prompts.file",
    "--held-out": "prompts.held_out_file",
}
"""Option → the setting that it is."""
BESIDE = {"prompts.file": "prompts.train", "prompts.held_out_file": "prompts.held_out"}
"""Setting → another one that says the same."""


def add_choices(command: argparse.ArgumentParser) -> None:
    """The options that need no config, and what goes on top of one."""
    command.add_argument(
        "--checkpoint", metavar="FILE", help="to train on: a file, or a folder in diffusers' layout"
    )
    command.add_argument(
        "--reward",
        metavar="NAME",
        help='to train towards: a name of `rlr rewards`, or your own "file.py:function"',
    )
    command.add_argument("--prompts", metavar="FILE", help="to train with, one per line")
    command.add_argument("--held-out", metavar="FILE", help="prompts to judge by, which are not trained on")
    add_preset(command)
    add_settings(command)


def add_preset(command: argparse.ArgumentParser) -> None:
    """`--preset`."""
    text = "settings to start from: " + "; ".join(f"{name}, {p.summary}" for name, p in PRESETS.items())
    command.add_argument("--preset", metavar="NAME", help=text)


def add_settings(command: argparse.ArgumentParser, *sections: str) -> None:
    """`--set`."""
    which = f" of {', '.join(sections)}" if sections else ""
    text = f"override a setting{which}, as sampling.steps=10; may be repeated"
    command.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=text)


def composed_of(options: argparse.Namespace, file: Path | None, device: str = "") -> Composed:
    """The config that the options and a file make. Raises `ConfigError` where they say two things of one setting."""
    from rlr_core.trainer.composing import composed

    file = user_path(file) if file else None
    named = _named(options)
    if file:
        _refuse_two_values(named, read_settings(file), str(file))
    for text in options.set:
        _refuse_two_values(named, parse_override(text), f"--set {text}")
    tables = [_table(setting, value) for setting, value in named.values()]
    if options.preset is not None:
        preset(options.preset)  # no name at all is no preset either
    return composed(file, [*options.set, *tables], options.preset or "", device)


def refuse_unchosen(made: Composed) -> None:
    """A run on a checkpoint of one's own wants a reward and prompts that are meant for it: what is embedded is not."""
    config, chosen = made.config, made.chosen
    if config.model.checkpoint == "embedded":
        return
    if "name" not in chosen.get("reward", {}):
        raise ConfigError(
            f"no reward for {config.model.checkpoint}",
            "a reward to train towards; the embedded one is for the embedded checkpoint alone",
            "add --reward NAME (`rlr rewards` lists them), or --reward my_reward.py:function",
        )
    if not config.prompts.train and not config.prompts.file:
        raise PromptError(
            f"no training prompts for {config.model.checkpoint}",
            "prompts for this checkpoint",
            "add --prompts FILE, with one per line",
        )


def _named(options: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """Option → its setting and value, of those that are given."""
    given = {option: getattr(options, option.strip("-").replace("-", "_")) for option in NAMED}
    return {option: (NAMED[option], value) for option, value in given.items() if value is not None}


def _refuse_two_values(named: dict[str, tuple[str, str]], tables: Tables, source: str) -> None:
    for option, (setting, value) in named.items():
        for other, said in _said(setting, tables):
            if said and not _same(value, said):
                raise ConfigError(
                    f"{option} {value}, and {other} = {said!r} in {source}",
                    "one of the two",
                    f"leave {option} away, or take {other} out of {source}",
                )


def _said(setting: str, tables: Tables) -> Iterator[tuple[str, Any]]:
    """What tables say of a setting, and of the one that says the same: names and values."""
    for name in (setting, BESIDE.get(setting, "")):
        section, _, key = name.partition(".")
        table = tables.get(section)
        if isinstance(table, dict) and key in table:
            yield name, table[key]


def _same(value: str, said: Any) -> bool:
    """Whether both are one name, or one path."""
    return isinstance(said, str) and (
        value == said or os.path.abspath(user_path(value)) == os.path.abspath(user_path(said))
    )


def _table(setting: str, value: str) -> Tables:
    section, _, key = setting.partition(".")
    return {section: {key: value}}
