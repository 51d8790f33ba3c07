"""The page Compare without its HTML: what is asked for, what is to be painted for it, and what the scores say."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rlr_core.errors import ConfigError, PromptError, RLRError
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.summary import Comparison, standard_error
from rlr_core.storage import read_text, write_text
from ui import jobs
from ui.picking import Side, checkpoint_for, lora_file, side
from ui.scoring import installed
from ui.strengths import strength_chart
from ui.workspace import Workspace

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Of a sweep, where no others are asked for."""
MOST_ROWS, MOST_COLUMNS = 16, 64
PROMPTS = 6
"""Of a run's held-out prompts, so many are proposed."""
LONGEST = 1_000_000
"""Bytes of a card."""
PICTURE = re.compile(r"\d{1,2}-\d{1,2}\.png")
"""Name of a painted picture's file: row and column."""

Table = list[list[float | None]]
"""A reward's scores, row by row."""


@dataclass(frozen=True)
class Asked:
    """What the page asks for.

    Attributes:
        first, second: keys of choices (see `picking`); of a sweep the first counts for nothing.
        sweep: whether the second is painted at several strengths, instead of beside the first.
        strengths: of a sweep; else those of the first and the second.
        prompts: lines.
        pictures: of each prompt, whose seeds count up from `seed`.
        checkpoint: to paint with; "" for the one that the LoRA was made for.
        rewards: names.
    """

    first: str = "base"
    second: str = ""
    sweep: bool = False
    strengths: list[float] = field(default_factory=lambda: [1.0, 1.0])
    prompts: list[str] = field(default_factory=list)
    pictures: int = 2
    seed: int = 0
    checkpoint: str = ""
    rewards: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Asked:
        """From JSON. Raises `RLRError` for what cannot be painted."""
        asked = cls(**{key: value for key, value in values.items() if key in cls.__dataclass_fields__})
        wrong = [name for name, good in asked._checks().items() if not good]
        if wrong:
            raise ConfigError(
                f"a wrong {wrong[0]}: {str(getattr(asked, wrong[0]))[:100]}", CHECKED[wrong[0]], "correct it"
            )
        prompts = [line.strip() for line in asked.prompts if line.strip()]
        columns = len(prompts) * asked.pictures
        if not prompts:
            raise PromptError("no prompts", "a prompt on each line", "write one")
        if columns > MOST_COLUMNS:
            raise ConfigError(f"{columns} pictures in a row", f"{MOST_COLUMNS} at most", "take fewer prompts")
        return cls(**{**vars(asked), "prompts": prompts})

    def _checks(self) -> dict[str, bool]:
        return {
            "first": isinstance(self.first, str),
            "second": isinstance(self.second, str) and bool(self.second),
            "sweep": isinstance(self.sweep, bool),
            "checkpoint": isinstance(self.checkpoint, str),
            "pictures": type(self.pictures) is int and 1 <= self.pictures <= 16,
            "seed": type(self.seed) is int and 0 <= self.seed < 2**53,
            "prompts": _texts(self.prompts),
            "rewards": _texts(self.rewards),
            "strengths": isinstance(self.strengths, list)
            and (1 <= len(self.strengths) <= MOST_ROWS if self.sweep else len(self.strengths) == 2)
            and all(type(value) in (int, float) and abs(value) < 100 for value in self.strengths),
        }


CHECKED = {
    "first": "a choice of the list",
    "second": "a LoRA: choose one",
    "sweep": "yes or no",
    "checkpoint": "a choice of the list",
    "pictures": "1 to 16 pictures of each prompt",
    "seed": "a whole number from 0",
    "prompts": "texts",
    "rewards": "names",
    "strengths": f"up to {MOST_ROWS} numbers between -100 and 100, as 0, 0.5, 1",
}
"""What is asked → what it has to be."""


def _texts(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, str) and len(value) < 10_000 for value in values
    )


def job_of(workspace: Workspace, asked: Asked, folder: Path) -> dict[str, Any]:
    """What the process is to do. Raises `RLRError` for what is not there, or lies outside the folders."""
    unknown = [
        name
        for name in asked.rewards
        if name not in {each.name for each in installed(workspace) if each.there}
    ]
    if unknown:
        raise ConfigError(
            f"the reward {unknown[0][:80]!r}", "one that is installed", "choose it from the list"
        )
    keys = [asked.second] if asked.sweep else [asked.first, asked.second]
    sides = [side(workspace, key) for key in keys]
    exports = [
        _export(each, folder / f"lora-{k}.safetensors")
        for k, each in enumerate(sides)
        if each.iteration is not None
    ]
    files = [
        folder / f"lora-{k}.safetensors" if each.iteration is not None else each.file
        for k, each in enumerate(sides)
    ]
    seeds = [asked.seed + k for _ in asked.prompts for k in range(asked.pictures)]
    prompts = [prompt for prompt in asked.prompts for _ in range(asked.pictures)]
    run = next((each.run for each in reversed(sides) if each.run), None)
    return {
        "rows": _rows(asked, sides, files),
        "sweep": asked.sweep,
        "labels": [each.label for each in sides],
        "title": sides[-1].label if asked.sweep else " and ".join(each.label for each in sides),
        "lora": str(sides[-1].file or "") if asked.sweep else "",
        "exports": exports,
        "run": str(run or ""),
        "checkpoint": checkpoint_for(workspace, sides[::-1], asked.checkpoint),
        "prompts": prompts,
        "scored": [_intent(prompt) for prompt in prompts],
        "seeds": seeds,
        "rewards": asked.rewards,
        "folder": str(workspace.rewards),
        "asked": vars(asked),
    }


def _export(each: Side, file: Path) -> dict[str, Any]:
    return {"run": str(each.run), "iteration": each.iteration, "file": str(file)}


def _rows(asked: Asked, sides: list[Side], files: list[Path | None]) -> list[dict[str, Any]]:
    if asked.sweep:
        strengths = sorted(dict.fromkeys(map(float, asked.strengths)))
        return [
            {"label": f"{strength:g}", "lora": str(files[0] or ""), "strength": strength}
            for strength in strengths
        ]
    rows = []
    for each, file, strength in zip(sides, files, asked.strengths, strict=True):
        label = each.label + (f" at {strength:g}" if file and strength != 1 else "")
        rows.append({"label": label, "lora": str(file or ""), "strength": float(strength)})
    return rows


def _intent(line: str) -> str:
    """What a line asks to be shown: a prompt by stage is scored against all of its text. Raises `PromptError`."""
    from rlr_core.dcot import parse_line

    return parse_line(line).scored


def proposed(workspace: Workspace, keys: Sequence[str]) -> dict[str, Any]:
    """What to start from with these choices: prompts, and names of the rewards that judge."""
    for key in reversed(keys):
        with suppress(RLRError):
            if run := side(workspace, key).run:
                return _of_run(workspace, RunDirectory.open(run))
    return {
        "prompts": [],
        "rewards": [each.name for each in installed(workspace) if each.there and each.published][:1],
    }


def _of_run(workspace: Workspace, directory: RunDirectory) -> dict[str, Any]:
    from rlr_core.embedded import world

    config = directory.config
    given = config.prompts.held_out or config.prompts.train
    lines = list(given or (world.HELD_OUT_PROMPTS if config.model.checkpoint == "embedded" else []))
    there = {each.name for each in installed(workspace) if each.there}
    names = dict.fromkeys([config.reward.held_out, config.reward.name])
    return {"prompts": spread(lines, PROMPTS), "rewards": [name for name in names if name in there]}


def spread(lines: Sequence[str], count: int) -> list[str]:
    """So many of them, evenly apart."""
    step = max(1.0, len(lines) / count)
    return [lines[int(k * step)] for k in range(min(count, len(lines)))]


def interval(scores: Sequence[float | None]) -> tuple[float, float] | None:
    """Mean and half of its 95% confidence interval (normal approximation; NaN of one score); None where none is known."""
    known = [score for score in scores if score is not None]
    if not known:
        return None
    return fmean(known), 1.96 * standard_error(known) if len(known) > 1 else math.nan


def intervals(scores: Sequence[float | None]) -> str:
    """The same for people."""
    found = interval(scores)
    if found is None:
        return "–"
    digits = 3 if abs(found[0]) < 100 else 1
    return f"{found[0]:.{digits}f}" + ("" if math.isnan(found[1]) else f" ± {found[1]:.{digits}f}")


def view(name: str, folder: Path, width: int = 640) -> dict[str, Any]:
    """A comparison as the page shows it."""
    asked, told = jobs.asked(folder), jobs.told(folder)
    if not asked:
        return {"job": name, "state": "waiting"}
    scores: dict[str, Table] = {key: value for key, value in told.get("scores", {}).items()}
    return {
        "job": name,
        **{
            key: told.get(key)
            for key in ("state", "done", "total", "doing", "error", "pictures", "size", "problems")
        },
        **{
            key: asked.get(key)
            for key in ("title", "labels", "sweep", "prompts", "seeds", "asked", "checkpoint")
        },
        "rows": [
            {
                "label": row["label"],
                "means": {reward: intervals(table[k]) for reward, table in scores.items()},
            }
            for k, row in enumerate(asked["rows"])
        ],
        "scores": scores,
        "answers": [answer(asked, reward, table) for reward, table in scores.items()],
        "charts": [_chart(asked, reward, table, width) for reward, table in scores.items()]
        if asked["sweep"]
        else [],
        "best": best(asked, scores),
        "sheet": (folder / "sheet.png").is_file(),
    }


def answer(asked: dict[str, Any], reward: str, table: Table) -> str:
    """Which row scores highest, and whether that is clear: a sentence that claims no more than was measured."""
    if asked["sweep"]:
        return _sweep_answer(asked, reward, table)
    found = Comparison.of(table[0], table[1])
    if not found:
        return f"{reward}: no scores."
    if found.pairs == 1:
        return f"{reward}: one pair tells nothing."
    if abs(found.difference) <= found.half_width:
        return f"{reward}: no clear difference ({found.change}, 95%, {found.pairs} pairs)."
    first, second = (row["label"] for row in asked["rows"])
    high, low = (second, first) if found.difference > 0 else (first, second)
    gap = f"{abs(found.difference):.3f} ± {found.half_width:.3f}"
    return f"{reward}: {high} scores higher than {low} by {gap} (95%, {found.pairs} pairs)."


def _sweep_answer(asked: dict[str, Any], reward: str, table: Table) -> str:
    top = _top(table)
    if top is None:
        return f"{reward}: no scores."
    near = [k for k in range(len(table)) if k != top and not _clearly(table[k], table[top])]
    others = ", ".join(asked["rows"][k]["label"] for k in near)
    text = f"{reward}: strength {asked['rows'][top]['label']} scores highest, {intervals(table[top])}"
    if len(near) == len(table) - 1:
        return f"{text}, but no strength is clearly different from it."
    return (
        f"{text}; not clearly higher than {others}." if near else f"{text}, clearly higher than every other."
    )


def _clearly(low: Sequence[float | None], high: Sequence[float | None]) -> bool:
    """Whether the 95% interval of the difference, pair by pair, is above 0; a single pair tells nothing."""
    found = Comparison.of(low, high)
    return bool(found) and found.pairs > 1 and found.difference > found.half_width


def _top(table: Table) -> int | None:
    means = {k: found[0] for k, row in enumerate(table) if (found := interval(row))}
    return max(means, key=lambda k: means[k]) if means else None


def best(asked: dict[str, Any], scores: dict[str, Table]) -> dict[str, Any] | None:
    """The strength that the first reward likes most, where it can be made the file's preferred weight."""
    if not (asked.get("lora") and scores):
        return None
    table = next(iter(scores.values()))
    top = _top(table)
    if top is None:
        return None
    clear = any(_clearly(row, table[top]) for row in table)
    return {"strength": asked["rows"][top]["strength"], "clear": clear, "file": Path(asked["lora"]).name}


def _chart(asked: dict[str, Any], reward: str, table: Table, width: int) -> str:
    found = [(row["strength"], interval(scores)) for row, scores in zip(asked["rows"], table, strict=True)]
    points = [(x, at[0], 0.0 if math.isnan(at[1]) else at[1]) for x, at in found if at]
    return strength_chart(f"{reward} by strength: mean with its 95% interval", points, width, 220)


def prefer(workspace: Workspace, file: str, strength: float) -> Path:
    """Write the strength into the card beside a LoRA, as what hosts begin with; what else the card says stays.

    Raises `RLRError` for a file outside the folders, and for a card that cannot be read.
    """
    card = lora_file(workspace, file).with_suffix(".json")
    if card.is_symlink() and not workspace.allows(card):
        raise ConfigError(
            f"the card {card} is a link that leads elsewhere", "a file beside the LoRA", "replace it"
        )
    try:
        values = json.loads(read_text(card, LONGEST)) if card.exists() else {}
    except (OSError, ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ConfigError(f"{card} cannot be read", "the card of a LoRA, as JSON", "correct or delete it")
    write_text(
        card,
        json.dumps({**values, "preferred weight": round(float(strength), 4)}, ensure_ascii=False, indent=2)
        + "\n",
    )
    return card
