"""`rlr plan`: what a run needs, and what to set where that is too much."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from rlr_core.cli.saying import say
from rlr_core.errors import ConfigError
from rlr_core.families import FAMILIES
from rlr_core.markdown import table

CARDS = (6.0, 8.0, 12.0, 16.0, 24.0)
"""GB of the cards that people have."""
LARGEST = 1_000_000
TITLES = [
    "needs",
    "training",
    "of it weights",
    "denoiser",
    "decoder",
    "rest",
    "painting",
    "time",
    "enough for",
    "settings",
]


def add_plan(command: argparse.ArgumentParser) -> None:
    """The arguments of `rlr plan`."""
    cards = ", ".join(f"{card:g}" for card in CARDS)
    command.add_argument(
        "--memory",
        type=float,
        action="append",
        metavar="GB",
        help=f"of the card; may be repeated (default: {cards})",
    )
    command.add_argument(
        "--family",
        choices=tuple(FAMILIES),
        help="plan for any checkpoint of this family, none being given",
    )
    command.add_argument(
        "--device", default="cuda", help="to plan for: cuda, cuda:1, cpu or mps (default: %(default)s)"
    )


def family_settings(family: str | None, *, prompts: bool) -> list[str]:
    """What `--set` takes for a family without a checkpoint, at its own size; a prompt, where there are no `prompts`."""
    if family is None:
        return []
    prompt = [] if prompts else ["prompts.train=['a red circle']"]
    return [f"model.checkpoint={FAMILIES[family].configs}", *prompt]


def plan(config: Any, cards: list[float], device: str) -> None:
    """Go down the ladder until the smallest card is enough, and print every plan. Raises `ConfigError`."""
    for card in cards:
        if not 0 < card <= LARGEST:
            raise ConfigError(f"--memory {card:g}", f"a number of GB up to {LARGEST:,}", "correct it")
    from rlr_core.planner.ladder import gigabytes, ladder
    from rlr_core.planner.machine import machine_to_plan_for

    machine = machine_to_plan_for(device)
    wanted, plans, chosen = sorted(cards, reverse=True), [], {}
    for plan in ladder(config, machine):
        plans.append(plan)
        chosen |= {card: plan for card in wanted if card not in chosen and plan.bytes <= card * 2**30}
        if len(chosen) == len(wanted):
            break
    rows = [
        _row(plan, before, plans[0], machine) for before, plan in zip([None, *plans], plans, strict=False)
    ]
    for row, plan in zip(rows, plans, strict=True):
        row.insert(-1, ", ".join(f"{card:g} GB" for card in wanted if chosen.get(card) is plan))
    say(_checkpoint(config.model.checkpoint))
    weights = ", ".join(f"{name} {gigabytes(size)}" for name, size in plans[0].footprint.weights.items())
    work = f"An iteration of {config.training.batch_size} pictures: {plans[0].footprint.flops:.2g} operations"
    say(f"{machine.name}. Weights as configured: {weights}. {work}.\n")
    say(table(TITLES, rows))
    for card in wanted:
        say(_advice(card, chosen.get(card), plans[-1]))


def _checkpoint(name: str) -> str:
    """Which one the plan is for."""
    family = next((each for each in FAMILIES.values() if str(each.configs) == name), None)
    if family:
        return f"Any checkpoint of {family.title}, at its own size."
    other = " (for another one: --family, or --set model.checkpoint=FILE)" if name == "embedded" else ""
    return f"Checkpoint: {name}{other}."


def _row(plan: Any, before: Any, first: Any, machine: Any) -> list[str]:
    """All cells but "enough for". "settings" are those that this plan adds."""
    from rlr_core.families import Role
    from rlr_core.planner.footprint import WEIGHTS
    from rlr_core.planner.ladder import gigabytes

    parts, old = dict(plan.footprint.training), before.settings if before else []
    total = sum(parts.values())
    named = [parts.pop(name, 0) for name in (WEIGHTS, Role.DENOISER.value, Role.DECODER.value)]
    seconds = machine.seconds(plan.footprint, plan.config.model.precision)
    time = f"× {plan.footprint.flops / first.footprint.flops:.2f}" + (f", {seconds:.1f} s" if seconds else "")
    sizes = [plan.bytes, total, *named, sum(parts.values()), plan.footprint.painting]
    new = [setting for setting in plan.settings if setting not in old]
    return [*map(gigabytes, sizes), time, " ".join(new) or "as configured"]


def _advice(card: float, plan: Any, last: Any) -> str:
    from rlr_core.planner.ladder import gigabytes

    if plan is None:
        return f"{card:g} GB: not enough; the last plan needs {gigabytes(last.bytes)}. Lower sampling.size, or K and h."
    settings = " ".join(f"--set {shlex.quote(setting)}" for setting in plan.settings)
    return f"{card:g} GB: {settings or 'enough for the run as it is'}"
