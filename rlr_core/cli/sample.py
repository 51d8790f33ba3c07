"""`rlr sample`: pictures from a checkpoint, with a LoRA at one strength or at several with the same seeds."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlr_core.cli.given import checkpoint, existing
from rlr_core.cli.quick import painting_only
from rlr_core.cli.saying import say
from rlr_core.config import RunConfig, load
from rlr_core.embedded import CHECKPOINT
from rlr_core.errors import ConfigError
from rlr_core.safetensors_header import read_header, shown
from rlr_core.storage import refuse_overwriting, user_path

if TYPE_CHECKING:
    from rlr_core.runs.painted import Painted

SHOWN = 8
"""Pictures side by side on the sheet."""
MOST = 1000
"""Pictures of one call: they are in memory until all are painted."""
MOST_ROWS = 64
"""Strengths of one call, each a row of the sheet."""


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
    command.add_argument("--force", action="store_true", help="replace pictures that are there already")


def sample(options: argparse.Namespace) -> None:
    """Paint pictures into files, and a sheet of them."""
    if not 0 <= options.seed < 2**62:
        raise ConfigError(f"--seed {options.seed}", "a number from 0 to 2⁶²", "correct it")
    strengths = _strengths(options)
    total = len(options.prompts) * max(options.count, 0) * len(strengths)
    if not 1 <= total <= MOST:
        raise ConfigError(f"{total} pictures by --count {options.count}", f"1 to {MOST}", "correct it")
    load(None, options.set)  # a wrong setting is told before libraries are imported
    prompts = [prompt for prompt in options.prompts for _ in range(options.count)]
    seeds = [options.seed + j % options.count for j in range(len(prompts))]
    out = user_path(options.out)
    refuse_overwriting(_files(out, strengths, len(prompts)).values(), options.force)
    lora = existing(options.lora) if options.lora else None
    if lora:
        read_header(lora)  # a wrong path is told before anything is loaded
    with painting_only() if options.alone else nullcontext():
        config = _config(options.set)
        rows = _painted(config, lora, strengths, prompts, seeds)
    facts = facts_of(config, lora)
    told = {
        name: [
            replace(facts, prompt=prompt, seed=seed, strength=strength)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        for name, strength in strengths.items()
    }
    _save(rows, told, out)
    say(f"{total} pictures in {out}{', side by side in sheet.png' if total > 1 else ''}")


def _config(settings: list[str]) -> RunConfig:
    """With the defaults of the checkpoint's family, as in training."""
    from rlr_core.trainer.composing import composed

    return composed(None, settings).config


def _strengths(options: argparse.Namespace) -> dict[str, float]:
    """By their names in files. Raises `ConfigError`."""
    if options.strengths is not None and options.lora is None:
        raise ConfigError("--strengths without --lora", "a LoRA file", "add --lora FILE")
    given = str(options.strength) if options.strengths is None else options.strengths
    words = given.split(",")
    try:
        strengths = [float(word) for word in words[: MOST_ROWS + 1]]
    except ValueError:
        strengths = []
    if not 0 < len(strengths) <= MOST_ROWS or not all(abs(strength) < 100 for strength in strengths):
        raise ConfigError(
            f"strengths {shown(given)}",
            f"up to {MOST_ROWS} numbers between -100 and 100, as 0,0.5,1",
            "correct it",
        )
    return {f"{strength:g}": strength for strength in strengths}


def _files(folder: Path, strengths: Collection[str], count: int) -> dict[tuple[str, int], Path]:
    """Where `count` pictures at each strength are put, by strength and number, and the sheet, ("", 0)."""
    marks = {name: f"-strength-{name}" if len(strengths) > 1 else "" for name in strengths}
    files = {(name, k): folder / f"{k:03d}{mark}.png" for name, mark in marks.items() for k in range(count)}
    return files | {("", 0): folder / "sheet.png"}


def _painted(
    config: RunConfig, lora: Path | None, strengths: dict[str, float], prompts: list[str], seeds: list[int]
) -> dict[str, Any]:
    """The pictures at each strength, by its name."""
    from rlr_core.trainer.devices import threads

    with threads(config.model.threads):
        paint = _painter(config, lora)
        return {name: paint(strength, prompts, seeds) for name, strength in strengths.items()}


def _painter(config: RunConfig, file: Path | None) -> Callable[[float, list[str], list[int]], Any]:
    """(strength, prompts, seeds) → pictures."""
    from rlr_core.lora import load_lora
    from rlr_core.lora.hooked_lora import HookedLora
    from rlr_core.models import load_configured
    from rlr_core.trainer import painter
    from rlr_core.trainer.devices import choose_device
    from rlr_core.trainer.prompts import stage_settings, understood

    model = load_configured(config.model, choose_device(config.model.device))
    lora = load_lora(file, model, HookedLora) if file else None  # peft takes a second to import
    encode_anew = lora is not None and lora.in_text_encoder
    stages = stage_settings(config.prompts)
    paint = painter(model, config.sampling, config.inference, stages=stages, encode_anew=encode_anew)

    def painted(strength: float, prompts: list[str], seeds: list[int]) -> Any:
        with lora.scaled(strength) if lora else nullcontext():
            return paint(understood(prompts, config.prompts), seeds)

    return painted


def facts_of(config: RunConfig, lora: Path | None) -> Painted:
    """What all pictures of one call have in common; prompt, seed, strength and size are each one's own."""
    from rlr_core.runs.hashes import checkpoint_hash, lora_hash
    from rlr_core.runs.painted import Painted

    model, sampling, inference = config.model, config.sampling, config.inference
    path = checkpoint(model.checkpoint)
    return Painted(
        prompt="",
        negative=config.prompts.negative,
        seed=0,
        steps=inference.steps or sampling.steps,
        guidance_scale=inference.guidance_scale or sampling.guidance_scale,
        sampler=inference.sampler,
        eta=sampling.eta,
        size=(0, 0),
        checkpoint=model.checkpoint if path == CHECKPOINT else path.resolve().name,
        checkpoint_hash=checkpoint_hash(path),
        prediction=model.prediction,
        zero_snr=model.zero_snr,
        clip_skip=model.clip_skip,
        vae=user_path(model.vae).name if model.vae else "",
        lora=lora.name if lora else "",
        lora_hash=lora_hash(lora) if lora else "",
    )


def _save(rows: dict[str, Any], told: dict[str, list[Painted]], folder: Path) -> None:
    """Write the pictures of each row, with what is told of them, and the sheet."""
    from rlr_core.runs.painted import texts
    from rlr_core.runs.pictures import grid, save_png, strip, to_picture

    prompts = [painted.prompt for painted in next(iter(told.values()))]
    files = _files(folder, rows, len(prompts))
    for name, images in rows.items():
        for number, image in enumerate(images):
            picture = to_picture(image, 0)
            painted = replace(told[name][number], size=picture.size)
            save_png(picture, files[name, number], texts(painted))
    strips = {name: strip(images[:SHOWN], 256) for name, images in rows.items()}
    sheet = grid(strips, prompts[:SHOWN]) if len(rows) > 1 else next(iter(strips.values()))
    save_png(sheet, files["", 0])
