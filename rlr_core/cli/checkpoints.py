"""`rlr checkpoint info` and `rlr checkpoints`: what checkpoint files are."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlr_core.cli import given
from rlr_core.cli.saying import say
from rlr_core.safetensors_header import shown
from rlr_core.storage import user_path


def add_checkpoint(command: argparse.ArgumentParser, late: Callable[..., Any]) -> None:
    """The arguments of `rlr checkpoint`."""
    actions = command.add_subparsers(title="actions", required=True, metavar="ACTION")
    summary = "say what a checkpoint is, read off its header"
    info = actions.add_parser("info", help=summary, description=summary[0].upper() + summary[1:] + ".")
    info.add_argument("path", metavar="FILE", help='or a folder in diffusers\' layout, or "embedded"')
    info.add_argument("--allow-pickle", action="store_true", help="read a .ckpt file, weights only")
    info.set_defaults(command=late)


def add_checkpoints(command: argparse.ArgumentParser) -> None:
    """The arguments of `rlr checkpoints`."""
    command.add_argument(
        "folders", type=Path, nargs="*", default=[Path()], metavar="FOLDER", help="(default: this one)"
    )
    command.add_argument("--all", action="store_true", help="list what cannot be trained on, too, and why")


def checkpoint(options: argparse.Namespace) -> None:
    """Describe one."""
    from rlr_core.models.describing import describe_checkpoint

    described = describe_checkpoint(given.checkpoint(options.path), allow_pickle=options.allow_pickle)
    for what, value in described.lines():
        say(f"{what + ':':18}{shown(value, 200)}")


def checkpoints(options: argparse.Namespace) -> None:
    """List those in folders."""
    from rlr_core.models.scan import scan

    found = scan(map(user_path, options.folders))
    usable = [each for each in found if each.description]
    for each in usable:
        say(_line(each.path, each.description))
    others = [each for each in found if not each.description]
    if options.all:
        for each in others:
            say(f"-  {each.problem.splitlines()[0]}")
    elif others or not usable:
        say(f"{len(usable)} checkpoints; {len(others)} other files" + (" (--all says why)" if others else ""))


def _line(path: Path, facts: Any) -> str:
    missing = f"  lacks {', '.join(facts.missing)}" if facts.missing else ""
    return f"{facts.family:22} {facts.prediction:12} {facts.size:>5} px  {facts.precision:10} {path}{missing}"
