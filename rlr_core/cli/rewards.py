"""`rlr rewards`: what is installed, what is missing, and getting it."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from rlr_core.cli.saying import say
from rlr_core.config import RewardConfig
from rlr_core.errors import ConfigError

if TYPE_CHECKING:
    from rlr_core.rewards import Published


def add_rewards(command: argparse.ArgumentParser) -> None:
    """The arguments of `rlr rewards`."""
    command.add_argument(
        "action", nargs="?", choices=("list", "download"), default="list", help=argparse.SUPPRESS
    )
    command.add_argument("names", nargs="*", metavar="NAME", help="`download NAME…` fetches weights")
    command.add_argument(
        "--folder",
        type=Path,
        default=Path(RewardConfig().folder),
        help="where weights lie (reward.folder; default: %(default)s)",
    )


def rewards(options: argparse.Namespace) -> None:
    """List rewards, or download their weights."""
    from rlr_core.rewards import PUBLISHED, REWARDS

    for name in options.names:
        if name not in PUBLISHED:
            near = difflib.get_close_matches(name, PUBLISHED, n=1, cutoff=0.0)[0]
            raise ConfigError(f"reward '{name}'", f"one of {', '.join(PUBLISHED)}", f"did you mean '{near}'?")
    if options.action == "download":
        _download([PUBLISHED[name] for name in options.names], options.folder)
        return
    say(f"always there: {', '.join(REWARDS)}, and your own file.py:function\n")
    for name in options.names or PUBLISHED:
        say(listing(PUBLISHED[name], options.folder))


def listing(published: Published, folder: Path) -> str:
    """A reward and where each of its files is, or has to be put."""
    from rlr_core.rewards.published_files import find

    paths = [find(file, folder) for file in published.files]
    state = "installed" if all(paths) else "missing"
    lines = [f"{published.name:12} {state:10} {published.measures}; scores {published.range}"]
    for file, path in zip(published.files, paths, strict=True):
        where = str(path) if path else f"get {file.address}\n{'':15}and put it at {folder / file.place}"
        lines.append(f"{'':12} {file.gigabytes}, {file.licence}: {where}")
    return "\n".join(lines)


def _download(chosen: list[Published], folder: Path) -> None:
    from rlr_core.rewards.download import download
    from rlr_core.rewards.published_files import find, verify

    if not chosen:
        raise ConfigError("rlr rewards download", "the name of a reward", "`rlr rewards` lists them")
    for published in chosen:
        for file in published.files:
            path = find(file, folder)
            if path is None:
                path = download(file, folder, published.name)
            else:
                verify(path, file)
            say(f"{published.name}: {path}")
