"""`rlr score`: a table of pictures on disk against rewards and image statistics."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlr_core.cli.saying import say
from rlr_core.errors import PromptError, RLRError

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
"""Files of a folder that count, by their ending."""


def add_score(command: argparse.ArgumentParser) -> None:
    """The arguments of `rlr score`."""
    command.add_argument(
        "pictures", nargs="+", type=Path, metavar="PICTURE", help="files, or folders of them (not deeper)"
    )
    prompts = command.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", help="what every picture was asked to show")
    prompts.add_argument(
        "--prompts", type=Path, metavar="FILE", help="UTF-8 text, one prompt a line, in the pictures' order"
    )
    command.add_argument(
        "--reward",
        action="append",
        metavar="REWARD",
        help='a reward\'s name or "file.py:function"; may be repeated (default: embedded)',
    )
    command.add_argument(
        "--statistics", action="store_true", help="saturation, edge density, entropy, diversity"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")


def score(options: argparse.Namespace) -> None:
    """Score picture files and print a table."""
    paths = find_pictures(options.pictures)
    columns = score_pictures(paths, _prompts(options, len(paths)), options)
    rows = [{name: values[k] for name, values in columns.items()} for k in range(len(paths))]
    if options.json:
        told = [{"picture": str(path), **row} for path, row in zip(paths, rows, strict=True)]
        say(json.dumps(told, ensure_ascii=False, indent=2))
    else:
        say(_table(paths, columns))


def find_pictures(given: Sequence[Path]) -> list[Path]:
    """Files as they come; a folder's pictures by name. Raises `RLRError` for a folder without any."""
    found = []
    for path in given:
        inside = _inside(path) if os.path.isdir(path) else [path]
        if not inside:
            raise RLRError(
                f"no pictures in the folder {path}",
                f"files such as {', '.join(sorted(PICTURES))}",
                "check it",
            )
        found += inside
    return found


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if _counts(path.name))
    except OSError as error:
        raise RLRError(
            f"the folder {folder} cannot be read: {error.strerror}", "a folder of pictures", "check it"
        ) from None


def _counts(name: str) -> bool:
    """Hidden files are no pictures of people: macOS keeps notes in `._A.png` beside every A.png."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURES


def _prompts(options: argparse.Namespace, count: int) -> list[str]:
    from rlr_core.trainer.prompts import read_prompts

    if options.prompts is None:
        return [options.prompt] * count
    prompts = read_prompts(str(options.prompts))
    if len(prompts) != count:
        raise PromptError(
            f"{len(prompts)} prompts in {options.prompts} for {count} pictures",
            "one prompt a line for each picture, in their order",
            "add or remove lines",
        )
    return prompts


def score_pictures(
    paths: Sequence[Path], prompts: Sequence[str], options: argparse.Namespace
) -> dict[str, list[float | None]]:
    """Column → one number for each picture, None where it is not defined. Pictures may differ in size."""
    from rlr_core.rewards import load_reward
    from rlr_core.runs.pictures import refuse_unreadable
    from rlr_core.runs.summary import short
    from rlr_core.trainer.devices import choose_device

    for path in paths:  # before all that takes time
        refuse_unreadable(path)
    device = choose_device(options.device)
    rewards = {short(name): load_reward(name, device) for name in options.reward or ["embedded"]}
    rows = [_scores(rewards, path, prompt) for path, prompt in zip(paths, prompts, strict=True)]
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rewards}
    if options.statistics:
        columns |= _statistics_of(paths)
    return {name: [v if math.isfinite(v) else None for v in values] for name, values in columns.items()}


def _scores(rewards: Mapping[str, Any], path: Path, prompt: str) -> dict[str, float]:
    """Of one picture, which is in memory only now: there may be thousands."""
    from rlr_core.runs.pictures import read_picture

    image = read_picture(path)[None]
    return {name: float(reward.measure(image, [prompt]).total) for name, reward in rewards.items()}


def _statistics_of(paths: Sequence[Path]) -> dict[str, list[float]]:
    """Of one picture after the other. The diversity of pictures of different sizes is left undefined."""
    import torch

    from rlr_core.rewards.statistics import SIDE, diversity, small, statistics
    from rlr_core.runs.pictures import read_picture

    tables, shapes, reduced = [], set(), torch.empty(len(paths), 3, SIDE, SIDE)
    for k, path in enumerate(paths):
        image = read_picture(path)[None]
        tables.append({name: float(value) for name, value in statistics(image).items()})
        reduced[k] = small(image)[
            0
        ]  # into its place: small pieces between large ones would scatter the memory
        shapes.add(image.shape)
    found = {name: [table[name] for table in tables] for name in tables[0]}
    return found | ({"diversity": diversity(reduced).tolist()} if len(shapes) == 1 else {})


def _table(paths: Sequence[Path], columns: dict[str, list[float | None]]) -> str:
    """Aligned columns, one line for each picture, and the mean of several."""
    lines = [[name for name in columns] + ["picture"]]
    lines += [[_cell(values[k]) for values in columns.values()] + [str(path)] for k, path in enumerate(paths)]
    if len(paths) > 1:
        lines.append([_cell(_mean(values)) for values in columns.values()] + [f"mean of {len(paths)}"])
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    return "\n".join(
        "  ".join([*(cell.rjust(width) for cell, width in zip(line, widths, strict=False)), line[-1]])
        for line in lines
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
