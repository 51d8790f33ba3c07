"""`rlr stages`: a plain prompt written as a prompt for each stage."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlr_core.cli.saying import say
from rlr_core.dcot import StagePrompts, format_line, parse_line
from rlr_core.dcot.writer import Server, ask, by_rules, left_out, staged_answer
from rlr_core.errors import PromptError
from rlr_core.storage import refuse_overwriting, user_path, write_text


def add_stages(command: argparse.ArgumentParser) -> None:
    """The arguments of `rlr stages`."""
    command.add_argument("prompts", nargs="+", metavar="PROMPT")
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
        "--out", type=Path, metavar="FILE", help="where to write; with --write, nothing is without it"
    )
    command.add_argument("--force", action="store_true", help="replace the file where it is there already")


def stages(options: argparse.Namespace) -> None:
    """Print the stages of prompts, and write them where that is asked for."""
    _refuse_unread(options)
    out = user_path(options.out) if options.out else None
    if out:
        refuse_overwriting([out], options.force)
    server = Server(options.server, options.model, options.timeout) if options.server is not None else None
    lines = [_written(parse_line(text), server) for text in options.prompts]
    if out:
        write_text(out, "".join(f"{line}\n" for line in lines))
        say(f"written to {out}")


def _refuse_unread(options: argparse.Namespace) -> None:
    if not options.write:
        raise PromptError("rlr stages without --write", "--write", "add it")
    if options.model and options.server is None:
        raise PromptError("--model without --server", "the address of a server", "add --server URL")


def _written(prompt: StagePrompts, server: Server | None) -> str:
    """The line of a prompt's stages, which is printed; what a server answers is printed before it is used."""
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
    if lost := left_out(text, staged):
        say(f"  no stage says: {', '.join(lost)}")
    if len(set(staged)) == 1:
        say("  no word of it is known to the rules, so every stage is the prompt itself")
