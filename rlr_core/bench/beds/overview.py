"""All beds side by side: what they are, and what learned there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rlr_core.bench.beds import MADE, NAMES, bed, prepared
from rlr_core.bench.beds.making import FOLDER
from rlr_core.chain.noise import derive_seed
from rlr_core.config import from_dict, merged
from rlr_core.errors import ConfigError
from rlr_core.estimators.ranking import agreement
from rlr_core.markdown import table
from rlr_core.storage import write_text
from rlr_core.trainer import Ranked, Trainer, score
from rlr_core.trainer.prompts import deal

TABLE = "beds.md"
PROMPTS, EACH = 12, 16
"""What a reward can teach is looked at on so many held-out prompts, with so many pictures of each."""


def listed() -> str:
    """A table of names, what they are, and how is painted."""
    rows = []
    for each in map(bed, NAMES):
        sampling = each.settings["sampling"]
        rows.append([each.name, each.summary, f"{sampling['steps']}", f"{sampling['guidance_scale']:g}"])
    return table(["bed", "what it is", "T", "guidance"], rows)


def train_bed(name: str, out: Path | None) -> Path:
    """Train the bed of that name from nothing; returns its folder in `out`. Raises `ConfigError`."""
    made = bed(name).made
    if not made:
        raise ConfigError(
            f"--train {name}",
            f"one of {', '.join(MADE)}",
            "rlr_core.embedded.train_checkpoint trains the embedded one",
        )
    folder = (out or FOLDER) / name
    made.train_all(folder)
    return folder


def ranked(name: str) -> str:
    """Kendall's τ of each step on the bed of that name, and where sub-chains start by it. Raises `RLRError`."""
    ground = bed(name)
    asked = {"estimator": {"name": "lookahead", "starts": "measured"}}
    with prepared(ground.job("starts", from_dict(merged(ground.settings, asked)))) as setup:
        told = next(event for event in Trainer(setup).train() if isinstance(event, Ranked))
    if not told.starts:
        return f"Too few of the rewards on {name} differ: nothing can be told."
    first, after = told.starts
    rows = [["step", *map(str, range(1, len(told.tau) + 1))], ["τ", *(f"{tau:.2f}" for tau in told.tau)]]
    return f"{table(rows[0], rows[1:])}\nSub-chains would start at steps {first + 1} to {after} of {len(told.tau)}."


def best_of(name: str) -> str:
    """How good the checkpoint's pictures are that the reward likes best, on the bed of that name. Raises `RLRError`.

    A reward that does not rank the pictures of a prompt as the held-out scorer does cannot teach what the scorer looks for,
    whatever the method.
    """
    ground = bed(name)
    with prepared(ground.job("best", from_dict(merged(ground.settings, {})))) as setup:
        held_out, reward = [], []
        for number, prompt in enumerate(deal(setup.held_out_prompts, PROMPTS, 0, 0)):
            images = setup.painter(
                [prompt] * EACH, [derive_seed("best", number, j) >> 32 for j in range(EACH)]
            )
            texts = [prompt.scored] * EACH
            held_out.append(score(setup.held_out, images, texts).total)
            reward.append(score(setup.reward, images, texts).total)
    judged, liked = torch.stack(held_out), torch.stack(reward)
    tau = agreement(liked[..., None], judged)
    best = judged.gather(1, liked.argmax(1, keepdim=True))
    cells = [float(judged.mean()), float(best.mean()), float(judged.amax(1).mean())]
    told = table(
        ["bed", "mean", f"best of {EACH} by the reward", "by the scorer itself", "τ"],
        [[name, *(f"{cell:.2f}" for cell in cells), "–" if tau is None else f"{float(tau):.2f}"]],
    )
    return f"Held-out score of {PROMPTS} prompts with {EACH} pictures each; τ of reward and scorer within prompts.\n{told}"


def learned(out: Path | None) -> str:
    """The stored results of `rlr bench learn --bed NAME --out FOLDER/NAME` in one table, which is also written to FOLDER.

    Without results nothing is written. Methods are in the order of their mean share of what could be won, 1 − start.
    """
    folder = out or FOLDER
    found = {name: _rows(folder / name / "learn.json") for name in NAMES}
    found = {name: rows for name, rows in found.items() if rows}
    if not found:
        return f"No results of `rlr bench learn --bed NAME --out {folder / 'NAME'}`."
    told = side_by_side(found)
    write_text(folder / TABLE, told)
    return told


def _rows(file: Path) -> dict[str, dict[str, Any]]:
    """Method → its row, where the study was done."""
    if not file.is_file():
        return {}
    return {row["method"]: row for row in json.loads(file.read_text(encoding="utf-8"))}


def side_by_side(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Bed → method → its row of the study `learn`, as a table."""
    starts = {name: next(iter(rows.values()))["start"] for name, rows in found.items()}
    labels = {method: row["label"] for rows in found.values() for method, row in rows.items()}
    order = sorted(
        labels, key=lambda method: -_gain([rows[method] for rows in found.values() if method in rows])
    )
    body = [["before training", *[_measured(start) for start in starts.values()]]]
    for method in order:
        body.append([labels[method], *[_cell(rows.get(method)) for rows in found.values()]])
    return table(["held-out score at equal evaluations", *found], body)


def _gain(rows: Sequence[Mapping[str, Any]]) -> float:
    """The mean over beds of (end − start) / (1 − start)."""
    shares = [
        (row["evaluations"]["value"] - row["start"]["value"]) / (1 - row["start"]["value"]) for row in rows
    ]
    return sum(shares) / len(shares)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    broken = f", {row['collapsed']} of {row['seeds']} broken" if row["collapsed"] else ""
    gained = f"{_measured(row['gained'], '+')}, " if "gained" in row else ""
    return f"{_measured(row['evaluations'])} ({gained}rate {row['learning_rate']:g}{broken})"


def _measured(value: Mapping[str, float], sign: str = "") -> str:
    """Two digits, and the interval where it is known; `sign` "+" for differences."""
    width, told = value["half_width"], f"{value['value']:{sign}.2f}"
    known = width is not None and width == width
    return f"{told} ± {width:.2f}" if known else told
