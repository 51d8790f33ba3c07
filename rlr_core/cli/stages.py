"""`rlr stages`: what each stage of a picture decides, and a plain prompt written as a prompt for each stage."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlr_core.cli.saying import say
from rlr_core.config import load
from rlr_core.errors import ConfigError, PromptError
from rlr_core.storage import refuse_overwriting, user_path, write_text

if TYPE_CHECKING:
    from rlr_core.dcot import StagePrompts
    from rlr_core.dcot.writer import Server
    from rlr_core.trainer import Unfolding


PNG = Path("stages.png")
"""Of the strip."""


def add_stages(command: argparse.ArgumentParser) -> None:
    """The arguments of `rlr stages`."""
    command.add_argument(
        "prompts", nargs="+", metavar="PROMPT", help="plain, or of stages: coarse: … | mid: … | fine: …"
    )
    command.add_argument("--checkpoint", metavar="FILE", help="that is to paint (default: the embedded one)")
    command.add_argument(
        "--reward",
        metavar="NAME",
        help="whose score is under each picture (default: the embedded one's, or none)",
    )
    command.add_argument("--seed", type=int, default=0, help="of the picture (default: %(default)s)")
    command.add_argument(
        "--write", action="store_true", help="print plain prompts as lines of stages, by rules and templates"
    )
    command.add_argument(
        "--server",
        metavar="URL",
        help="with --write: ask a language model there instead, as http://localhost:11434/v1 (Ollama, LM Studio, vLLM)",
    )
    command.add_argument("--model", default="", metavar="NAME", help="that the server is to use")
    command.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="of the server's answer (default: %(default)s)",
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"of the strip (default: {PNG}); with --write, of the lines, which are only printed without it",
    )
    command.add_argument("--force", action="store_true", help="replace the file where it is there already")


def stages(options: argparse.Namespace) -> None:
    """Draw the strip of a prompt; or print the stages of plain prompts, and write them where that is asked for."""
    _refuse_unread(options)
    out = user_path(options.out or PNG) if options.out or not options.write else None
    if out:
        refuse_overwriting([out], options.force)
    if options.write:
        _write(options, out)
    else:
        assert out
        _draw(options, out)


UNREAD = {True: ("checkpoint", "reward", "seed", "set"), False: ("server", "model")}
"""Options that are not read with --write, and those that are not read without it."""


def _refuse_unread(options: argparse.Namespace) -> None:
    for name in UNREAD[options.write]:
        if getattr(options, name):
            how = "with" if options.write else "without"
            raise PromptError(
                f"--{name} {how} --write", "one or the other", "leave one of them out, or add --write"
            )
    if options.model and options.server is None:
        raise PromptError("--model without --server", "the address of a server", "add --server URL")
    if not options.write and len(options.prompts) != 1:
        raise PromptError(f"{len(options.prompts)} prompts", "one, in quotes", "name one prompt at a time")


def _draw(options: argparse.Namespace, out: Path) -> None:
    from rlr_core.runs.pictures import save_png
    from rlr_core.runs.stage_strip import stage_strip, told_range

    unfolding = _unfolded(options)
    save_png(stage_strip(unfolding), out)
    for name, text, steps in unfolding.spans:
        say(f"{name}, {told_range(steps)}: {text}")
    say(f"the predicted picture along the chain is in {out}")


def _unfolded(options: argparse.Namespace) -> Unfolding:
    from rlr_core.runs.stage_strip import unfolded

    if not 0 <= options.seed < 2**62:
        raise ConfigError(f"--seed {options.seed}", "a number from 0 to 2⁶²", "correct it")
    chosen = {"model": {"checkpoint": options.checkpoint}} if options.checkpoint else {}
    return unfolded(load(None, [*options.set, chosen]), options.prompts[0], options.seed, options.reward)


def _write(options: argparse.Namespace, out: Path | None) -> None:
    from rlr_core.dcot import parse_line
    from rlr_core.dcot.writer import Server

    server = Server(options.server, options.model, options.timeout) if options.server is not None else None
    lines = [_written(parse_line(text), server) for text in options.prompts]
    if out:
        write_text(out, "".join(f"{line}\n" for line in lines))
        say(f"written to {out}")


def _written(prompt: StagePrompts, server: Server | None) -> str:
    """The line of a prompt's stages, which is printed; what a server answers is printed before it is used."""
    from rlr_core.dcot import format_line
    from rlr_core.dcot.writer import ask, by_rules, staged_answer

    if server:
        answer = ask(server, prompt.prompts[0])
        say(f"{server.model} answers:\n{answer}\n")
        staged = staged_answer(answer, prompt)
    else:
        staged = by_rules(prompt)
    line = format_line(staged)
    say(line)
    _tell(prompt.prompts[0], staged.prompts)
    return line


def _tell(text: str, staged: Sequence[str]) -> None:
    """What is to be looked at before the line is used."""
    from rlr_core.dcot.writer import left_out

    if lost := left_out(text, staged):
        say(f"  no stage says: {', '.join(lost)}")
    if len(set(staged)) == 1:
        say("  no word of it is known to the rules, so every stage is the prompt itself")
