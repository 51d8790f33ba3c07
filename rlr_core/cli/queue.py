"""`rlr queue`: the runs that wait for their turn."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlr_core.cli.saying import say
from rlr_core.config import RunConfig
from rlr_core.errors import ConfigError, RLRError
from rlr_core.runs.directory import RUNS, RunDirectory
from rlr_core.runs.queue import Queue


def queue(options: argparse.Namespace) -> None:
    """List the runs that wait, or do what was asked with one."""
    (options.act or _list)(options)


def add_queue(command: argparse.ArgumentParser) -> Any:
    """The arguments; returns where subcommands are added."""
    command.add_argument(
        "--root", type=Path, default=RUNS, metavar="DIR", help="folder of all runs (default: %(default)s)"
    )
    command.set_defaults(act=None)
    acts = command.add_subparsers(metavar="ACTION")
    move = acts.add_parser("move", help="let a run wait at another place")
    move.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    move.add_argument("place", type=int, metavar="PLACE", help="1 is the next one")
    move.set_defaults(act=_move)
    remove = acts.add_parser("remove", help="let a run wait no more; one that never began is deleted")
    remove.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    remove.set_defaults(act=_remove)
    run = acts.add_parser("run", help="start the next run, if none is at work")
    run.set_defaults(act=_run)
    return acts


def add_to_queue(config: RunConfig, options: argparse.Namespace, name: str) -> None:
    """Let a new run wait for its turn, which may be now."""
    if options.run:
        raise ConfigError(
            f"--run {options.run} with --queue",
            "one of the two: a run that waits gets the next free folder in runs/",
            "leave --run out",
        )
    waits = Queue(options.root if "root" in options else RUNS)
    _tell(waits, waits.add(config, name))


def resume_in_queue(folder: Path) -> None:
    """Let a run that was stopped wait for its turn."""
    waits = Queue(folder.parent)
    waits.resume(folder)
    _tell(waits, folder)


@contextmanager
def going_on_with_queue(directory: RunDirectory) -> Iterator[None]:
    """Start the next run that waits beside a run of this process, when that is let go of, however it ends."""
    try:
        yield
    finally:
        with suppress(OSError, RLRError):
            if started := Queue(directory.folder.parent).advance():
                say(f"\nThe next run that waited is at work: {started}")


def _tell(waits: Queue, folder: Path) -> None:
    waits.advance()
    told = [path.name for path in waits.waiting()]
    if folder.name in told:
        say(f"{folder} waits for its turn, at place {told.index(folder.name) + 1}.")
    else:
        say(f"{folder} is at work, or could not be started: rlr runs tells.")


def _list(options: argparse.Namespace) -> None:
    folders = Queue(options.root).waiting()
    if not folders:
        say(f"nothing waits in {options.root}")
    for place, folder in enumerate(folders, 1):
        say(f"{place:3}  {folder}")


def _move(options: argparse.Namespace) -> None:
    Queue(options.run.parent).move(options.run, options.place - 1)


def _remove(options: argparse.Namespace) -> None:
    Queue(options.run.parent).remove(options.run)
    say(f"{options.run} waits no more.")


def _run(options: argparse.Namespace) -> None:
    started = Queue(options.root).advance()
    say(f"{started} is at work." if started else "nothing was started: nothing waits, or a run is at work")
