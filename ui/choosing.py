"""What the Train page offers to choose: checkpoints of the folders, rewards that are there or missing."""

from __future__ import annotations

import html
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlr_core.config import ModelConfig, RunConfig, load
from rlr_core.embedded import DEMO
from rlr_core.errors import RLRError
from rlr_core.families import FAMILIES
from rlr_core.models.description import Description
from ui.words import WITHOUT_GRADIENT
from ui.workspace import Workspace

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Choice:
    """Something to choose.

    Attributes:
        value: as a config names it.
        label: as the page does.
        problem: why it cannot be chosen; "" where it can.
    """

    value: str
    label: str
    problem: str = ""


def checkpoints(workspace: Workspace) -> list[Choice]:
    """The embedded one, then those of the folders; what cannot be trained on comes last, with the reason."""
    from rlr_core.models.scan import scan

    found = scan(workspace.checkpoints)
    usable = [
        Choice(str(each.path), f"{each.path.name}  ·  {_short(each.description)}")
        for each in found
        if each.description
    ]
    others = [
        Choice(str(each.path), each.path.name, each.problem.splitlines()[0])
        for each in found
        if not each.description
    ]
    return [Choice(EMBEDDED, "Built-in demo checkpoint  ·  64 px"), *usable, *others]


def _short(facts: Description) -> str:
    return f"{facts.family}, {facts.size} px, {facts.precision}"


def described(path: str) -> tuple[str, bool]:
    """HTML that says what a checkpoint is, and whether it can be trained on."""
    if path == EMBEDDED:
        return _fact(
            "A small checkpoint of our own, of drawn shapes. It often paints the wrong colour, which training mends. "
            "No other program can load it: a LoRA for it is of use here alone."
        ), True
    if not path.strip():
        return _fact("Choose a checkpoint, or paste the path of one."), False
    from rlr_core.models.describing import describe_checkpoint
    from rlr_core.storage import user_path

    try:
        facts = describe_checkpoint(user_path(path.strip()))
    except (RLRError, OSError) as error:
        return f'<div class="notice red"><pre>{html.escape(str(error))}</pre></div>', False
    lines = " · ".join(
        f"{html.escape(what)} <b>{html.escape(value)}</b>"
        for what, value in facts.lines()
        if what != "layout"
    )
    return f'<p class="fact">{lines}</p>', True


def _fact(text: str) -> str:
    return f'<p class="fact">{html.escape(text)}</p>'


def rewards(folder: Path, checkpoint: str) -> list[Choice]:
    """Those for a checkpoint: installed ones first; a missing one says what it would take."""
    from rlr_core.rewards import PUBLISHED
    from rlr_core.rewards.published_files import find

    own = [Choice(EMBEDDED, "embedded: right shape and colour")] if checkpoint == EMBEDDED else []
    there, missing = [], []
    for name, each in PUBLISHED.items():
        lacking = [file for file in each.files if not find(file, folder)]
        if not lacking:
            there.append(Choice(name, f"{name} ({each.measures})"))
        else:
            missing.append(
                Choice(name, name, "; ".join(f"{file.gigabytes} ({file.licence})" for file in lacking))
            )
    return [*own, *there, *(Choice(name, name.replace("-", " ")) for name in WITHOUT_GRADIENT), *missing]


def usual_iterations(checkpoint: str) -> int:
    """The default for a checkpoint, whose family may have one."""
    from rlr_core.trainer.composing import defaults_for

    if checkpoint == EMBEDDED:
        return load(DEMO).training.iterations
    with suppress(RLRError, OSError):
        if found := defaults_for(ModelConfig(checkpoint=checkpoint), "cpu").get("training.iterations"):
            return found.value
    return RunConfig().training.iterations


def all_usual_iterations() -> set[int]:
    """Iterations that a page sets by itself."""
    families = (family.defaults["training.iterations"].value for family in FAMILIES.values())
    return {RunConfig().training.iterations, usual_iterations(EMBEDDED), *families}
