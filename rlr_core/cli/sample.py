"""`rlr sample`: pictures from a checkpoint, with a LoRA at one strength or at several with the same seeds."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rlr_core.config import RunConfig, load
from rlr_core.errors import ConfigError
from rlr_core.safetensors_header import read_header

SHOWN = 8
"""Pictures side by side on the sheet."""


def add_sample(command: argparse.ArgumentParser) -> None:
    """The arguments of `rlr sample`."""
    command.add_argument("prompts", nargs="+", metavar="PROMPT")
    command.add_argument("--lora", type=Path, help="LoRA file (.safetensors)")
    command.add_argument("--strength", type=float, default=1.0, help="of the LoRA (default: %(default)s)")
    command.add_argument(
        "--strengths",
        metavar="A,B,C",
        help="of the LoRA, one row of the sheet for each, with the same seeds: 0,1 compares with and without",
    )
    command.add_argument(
        "--seed", type=int, default=0, help="of the first picture; the others count up (default: %(default)s)"
    )
    command.add_argument(
        "--count", type=int, default=1, help="pictures of each prompt (default: %(default)s)"
    )
    command.add_argument(
        "--out", type=Path, default=Path("sample"), help="folder for the pictures (default: %(default)s)"
    )


def sample(options: argparse.Namespace) -> None:
    """Paint pictures into files, and a sheet of them."""
    from rlr_core.trainer.devices import threads

    if options.count < 1:
        raise ConfigError(f"--count {options.count}", "1 or more", "correct it")
    strengths = _strengths(options)
    config = load(None, options.set)
    prompts = [prompt for prompt in options.prompts for _ in range(options.count)]
    seeds = [options.seed + j % options.count for j in range(len(prompts))]
    with threads(config.model.threads):
        paint = _painter(config, options.lora)
        rows = {strength: paint(strength, prompts, seeds) for strength in strengths}
    total = _save(rows, prompts, options.out)
    print(f"{total} pictures in {options.out}{', side by side in sheet.png' if total > 1 else ''}")


def _strengths(options: argparse.Namespace) -> list[float]:
    if options.strengths is None:
        return [options.strength]
    if options.lora is None:
        raise ConfigError("--strengths without --lora", "a LoRA file", "add --lora FILE")
    try:
        strengths = [float(word) for word in options.strengths.split(",")]
    except ValueError:
        strengths = []
    if not strengths or not all(abs(strength) < 100 for strength in strengths):
        raise ConfigError(f"--strengths {options.strengths}", "numbers such as 0,0.5,1", "correct it")
    return list(dict.fromkeys(strengths))


def _painter(config: RunConfig, file: Path | None) -> Callable[[float, list[str], list[int]], Any]:
    """(strength, prompts, seeds) → pictures."""
    from rlr_core.lora import load_lora
    from rlr_core.models import load_configured
    from rlr_core.trainer import painter
    from rlr_core.trainer.devices import choose_device
    from rlr_core.trainer.prompts import stage_settings, understood

    if file:
        read_header(file)  # a wrong path is told before the model is loaded
    model = load_configured(config.model, choose_device(config.model.device))
    lora = load_lora(file, model) if file else None
    encode_anew = lora is not None and lora.in_text_encoder
    stages = stage_settings(config.prompts)
    paint = painter(model, config.sampling, config.inference, stages=stages, encode_anew=encode_anew)

    def painted(strength: float, prompts: list[str], seeds: list[int]) -> Any:
        with lora.scaled(strength) if lora else nullcontext():
            return paint(understood(prompts, config.prompts), seeds)

    return painted


def _save(rows: dict[float, Any], prompts: list[str], folder: Path) -> int:
    """The number of pictures."""
    from rlr_core.runs.pictures import grid, save_png, strip, to_picture

    for strength, images in rows.items():
        mark = f"-strength-{strength:g}" if len(rows) > 1 else ""
        for number, image in enumerate(images):
            save_png(to_picture(image, 0), folder / f"{number:03d}{mark}.png")
    strips = {f"{strength:g}": strip(images[:SHOWN], 256) for strength, images in rows.items()}
    sheet = grid(strips, prompts[:SHOWN]) if len(rows) > 1 else next(iter(strips.values()))
    save_png(sheet, folder / "sheet.png")
    return sum(map(len, rows.values()))
