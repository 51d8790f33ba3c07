"""The page Compare without its HTML: what is asked for, and what is to be painted for it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlr_core.errors import ConfigError, PromptError, RLRError
from rlr_core.runs.directory import RunDirectory
from rlr_core.storage import read_text, write_text
from ui.picking import Side, checkpoint_for, lora_file, side
from ui.scoring import installed
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
