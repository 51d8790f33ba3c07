"""Arguments in, exit code out: 0 done, 2 a problem that the user can put right, 130 interrupted, 141 nobody reads on."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from rlr_core import __version__
from rlr_core.cli.bench import add_bench
from rlr_core.cli.checkpoints import add_checkpoint, add_checkpoints
from rlr_core.cli.choosing import add_choices, add_preset, add_settings
from rlr_core.cli.lora import add_lora
from rlr_core.cli.plan import add_plan
from rlr_core.cli.queue import add_queue
from rlr_core.cli.rewards import add_rewards
from rlr_core.cli.sample import add_sample
from rlr_core.cli.score import add_score
from rlr_core.cli.stages import add_stages
from rlr_core.errors import RLRError, StorageError, visible
from rlr_core.runs.detached import SHARING

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Problems that the user can put right are printed in plain words."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # consoles that lack a character show another one
    options = parser().parse_args(arguments)
    options.alone = arguments is None  # nobody else is in this process
    os.environ.update({**QUIET, **SHARING, **os.environ})
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", module="rlr_core")
    warnings.showwarning = _show_warning
    try:
        _check_here()
        options.command(options)
        sys.stdout.flush()
    except RLRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read what we print has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python prints the rest when it ends
        return 141
    return 0


def _check_here() -> None:
    """Every path that is not absolute begins here."""
    try:
        os.getcwd()
    except OSError:
        raise StorageError(
            "the folder that you are in is not there any more", "a folder that is there", "cd to another one"
        ) from None


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"note: {visible(str(message))}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Its complaints repeat arguments, which a shell may have made of file names."""

    def error(self, message: str) -> NoReturn:
        super().error(visible(message))


def parser() -> argparse.ArgumentParser:
    """All commands with their arguments."""
    top = _Parser(prog="rlr", description="Train a LoRA towards a reward.")
    top.add_argument("--version", action="version", version=f"rlr {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = _command(
        commands, "demo", "train on the embedded checkpoint and show that the pictures got better"
    )
    _add_run(demo)
    add_preset(demo)
    add_settings(demo)

    train = _command(commands, "train", "train a LoRA for a checkpoint, towards a reward, with prompts")
    _add_config(train)
    _add_run(train)
    add_choices(train)

    plan = _command(
        commands, "plan", "predict memory and time of a run, and propose settings that fit a card"
    )
    plan.add_argument("config", type=Path, nargs="?", metavar="CONFIG.toml", help="(default: the preset)")
    add_plan(plan)
    add_choices(plan)

    resume = _command(commands, "resume", "go on with a run that was stopped or interrupted")
    resume.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    _add_detach(resume)

    extend = _command(commands, "extend", "go on with a run that is finished, or was stopped, for longer")
    extend.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    extend.add_argument(
        "--iterations", type=int, required=True, metavar="N", help="how many more than the run was to have"
    )
    _add_detach(extend)

    export = _command(commands, "export", "write the LoRA of a run's checkpoint, also while the run goes on")
    export.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    export.add_argument(
        "--iteration", type=int, metavar="N", help="that a checkpoint is of (default: the newest)"
    )
    export.add_argument(
        "--out", type=Path, metavar="FILE", help="(default: NAME-00000N.safetensors in the run's folder)"
    )
    export.add_argument("--force", action="store_true", help="replace the file where it is there already")

    report = _command(commands, "report", "draw a run's curve and report as they are now")
    report.add_argument("run", type=Path, metavar="RUN", help="folder of the run")

    stop = _command(commands, "stop", "ask a run to save a checkpoint and stop")
    stop.add_argument("run", type=Path, metavar="RUN", help="folder of the run")

    preview = _command(commands, "preview", "ask a run at work for a preview now")
    preview.add_argument("run", type=Path, metavar="RUN", help="folder of the run")

    save = _command(commands, "save", "ask a run at work to save a checkpoint and its LoRA now, and to go on")
    save.add_argument("run", type=Path, metavar="RUN", help="folder of the run")

    sample = _command(commands, "sample", "paint pictures, with or without a LoRA")
    add_sample(sample)
    add_settings(sample, "model", "sampling", "inference", "prompts")

    stages = _command(
        commands, "stages", "write a prompt for each stage, or see what each stage of a picture decides"
    )
    add_stages(stages)
    add_settings(stages, "model", "sampling", "prompts", "reward")

    add_lora(_command(commands, "lora", "look into LoRA files, convert them, merge them"), _late("lora"))

    add_checkpoint(_command(commands, "checkpoint", "look into a checkpoint"), _late("checkpoint"))
    add_checkpoints(_command(commands, "checkpoints", "list the checkpoints in folders"))

    add_score(_command(commands, "score", "score picture files with rewards"))

    acts = add_queue(_command(commands, "queue", "list the runs that wait for their turn"))
    add = _command(acts, "add", "let a new run wait for its turn, as `rlr train --queue` does")
    _add_config(add)
    add_choices(add)
    add.set_defaults(command=_late("train"), run=None, detach=False, queue=True)

    runs = _command(commands, "runs", "list the runs in a folder")
    runs.add_argument("root", type=Path, nargs="?", default=Path("runs"), help="(default: %(default)s)")

    config = _command(
        commands,
        "config",
        "print a config file with every setting, its default for a checkpoint and a comment",
    )
    add_choices(config)
    _command(commands, "estimators", "list the gradient estimators")
    add_rewards(_command(commands, "rewards", "list rewards with their weights; `rlr rewards download NAME`"))
    add_bench(_command(commands, "bench", "measure the estimators against each other"), _late("bench"))
    return top


def _command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    """A subcommand that calls the function of its name in `commands.py`, which is loaded when it is called."""
    added: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + "."
    )
    added.set_defaults(command=_late(name))
    return added


def _late(name: str) -> Callable[[argparse.Namespace], None]:
    def call(options: argparse.Namespace) -> None:
        from rlr_core.cli import commands

        getattr(commands, name)(options)

    return call


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--run", type=Path, metavar="DIR", help="folder of the run (default: a new one in runs/)"
    )
    _add_detach(command)


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "config",
        type=Path,
        nargs="?",
        metavar="CONFIG.toml",
        help="with more settings, or all; `rlr config` prints one with comments",
    )


def _add_detach(command: argparse.ArgumentParser) -> None:
    ways = command.add_mutually_exclusive_group()
    ways.add_argument(
        "--detach", action="store_true", help="in a process of its own, which outlives this terminal"
    )
    ways.add_argument(
        "--queue", action="store_true", help="the same, when the runs that wait before it are over"
    )
