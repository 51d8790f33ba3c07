"""`rlr lora`: look into LoRA files, convert them, merge them into checkpoints."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlr_core.cli.given import checkpoint, existing, new_file
from rlr_core.cli.saying import say
from rlr_core.errors import CheckpointError
from rlr_core.families import any_of, lora_families
from rlr_core.storage import refuse_overwriting, user_path

DTYPES = "float32", "float16", "bfloat16"


def add_lora(command: argparse.ArgumentParser, late: Callable[..., Any]) -> None:
    """The arguments of `rlr lora`."""
    actions = command.add_subparsers(title="actions", required=True, metavar="ACTION")

    info = _action(actions, "info", "say what is in a LoRA file", late)
    info.add_argument("file", type=Path, metavar="FILE")

    convert = _action(actions, "convert", "write a LoRA file in another format or precision", late)
    convert.add_argument("file", type=Path, metavar="IN")
    convert.add_argument("out", type=Path, metavar="OUT", help="a .safetensors file")
    formats = list(dict.fromkeys(kind for family in lora_families().values() for kind in family.formats))
    convert.add_argument("--to", choices=formats, help="(default: the family's first, as kohya)")
    convert.add_argument("--dtype", choices=DTYPES, help="of the weights (default: as they are)")
    convert.add_argument("--family", choices=tuple(lora_families()), help="where the file does not tell")
    _add_force(convert)
    convert.add_argument(
        "--fold",
        action="store_true",
        help="multiply alpha / rank into the weights, for programs that read no alpha",
    )

    merge = _action(actions, "merge", "add a LoRA to a checkpoint's weights", late)
    merge.add_argument("file", type=Path, metavar="LORA")
    merge.add_argument(
        "checkpoint", help='a .safetensors file, a folder in diffusers\' layout, or "embedded"'
    )
    merge.add_argument("out", type=Path, metavar="OUT", help="a new file or folder of the same kind")
    merge.add_argument("--strength", type=float, default=1.0, help="(default: %(default)s)")
    _add_force(merge)


def _add_force(action: argparse.ArgumentParser) -> None:
    action.add_argument("--force", action="store_true", help="replace the file OUT where it is there already")


def _action(actions: Any, name: str, summary: str, late: Callable[..., Any]) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + "."
    )
    added.set_defaults(command=late, action=name)
    return added


def lora(options: argparse.Namespace) -> None:
    """Carry the action out."""
    {"info": _info, "convert": _convert, "merge": _merge}[options.action](options)


def _info(options: argparse.Namespace) -> None:
    from rlr_core.lora.info import lora_report

    say(lora_report(existing(options.file)))


def _convert(options: argparse.Namespace) -> None:
    import torch

    from rlr_core.lora import read_lora, write_lora

    out = new_file(options.out)
    refuse_overwriting([out], options.force)
    given = lora_families()[options.family] if options.family else None
    file = read_lora(existing(options.file), given)
    family = file.family
    if family is None:
        raise CheckpointError(
            f"{options.file} does not tell which family it is for",
            f"--family {any_of(lora_families())}",
            "give it",
        )
    weights = (
        {place: layer.folded() for place, layer in file.weights.items()} if options.fold else file.weights
    )
    dtype = getattr(torch, options.dtype) if options.dtype else None
    kind = options.to or family.formats[0]
    write_lora(out, weights, file.metadata, kind=kind, family=family, dtype=dtype)
    say(f"{len(weights)} layers: {file.kind} → {kind}, in {out}")


def _merge(options: argparse.Namespace) -> None:
    from rlr_core.lora.merge import merge

    target = checkpoint(options.checkpoint)
    out = new_file(options.out) if os.path.isfile(target) else user_path(options.out)
    changed = merge(existing(options.file), target, out, options.strength, force=options.force)
    say(f"{changed} tensors of {options.checkpoint} changed, at strength {options.strength:g}, in {out}")
