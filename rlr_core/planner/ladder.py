"""From a config down a ladder of plans: each needs less memory than the one before, the cheapest savings first."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from rlr_core.config import RunConfig, from_dict, merged, to_dict
from rlr_core.errors import PlanError, RLRError
from rlr_core.estimators import unread_settings
from rlr_core.models.savings import OFF
from rlr_core.planner.footprint import Footprint, rehearse
from rlr_core.planner.machine import Machine
from rlr_core.rewards import PUBLISHED

LESS = 0.97
"""A saving that leaves more than this share of the memory is not worth its price."""

Changes = dict[str, dict[str, Any]]


class Unpredictable(PlanError):
    """A run that may train, but whose rehearsal fails."""


@dataclass(frozen=True)
class Plan:
    """A config with what is predicted of it.

    Attributes:
        changes: settings that differ from the config that the ladder began with.
        footprint: what it takes.
        bytes: of the device that it needs, all told, as predicted.
    """

    config: RunConfig
    changes: Changes
    footprint: Footprint
    bytes: float

    @property
    def settings(self) -> list[str]:
        """The changes as `--set` takes them."""
        return [
            f"{section}.{key}={str(value).lower() if isinstance(value, bool) else value}"
            for section, table in self.changes.items()
            for key, value in table.items()
        ]


def ladder(config: RunConfig, machine: Machine) -> Iterator[Plan]:
    """The config as it is, then ever smaller plans; what saves nothing, or the model does not take, is left out."""
    last = planned(config, {}, machine)
    yield last
    takes = last.footprint.savings
    for change in savings(config, machine):
        changes = taken(merged(free(config), last.changes, change), takes)
        if changes == last.changes:
            continue
        plan = planned(config, changes, machine)
        if plan.footprint.peak < LESS * last.footprint.peak:
            yield plan
            last = plan


def planned(config: RunConfig, changes: Changes, machine: Machine) -> Plan:
    """The config with `changes`, and what it takes. Raises `Unpredictable` where that cannot be rehearsed."""
    changed = from_dict(merged(to_dict(config), changes))
    try:
        footprint = rehearse(changed, machine.kind)
    except RLRError:
        raise
    except Exception as error:
        raise Unpredictable(
            f"what the run needs could not be predicted ({error!r})",
            "a model that also runs without weights, on torch's device 'meta'",
            "train without a plan: --set memory.plan=off",
        ) from error
    return Plan(changed, changes, footprint, machine.needs(footprint))


def taken(changes: Changes, takes: Collection[str]) -> Changes:
    """The changes without savings that a model does not take; `takes` are those that it does."""
    memory = changes.get("memory", {})
    left = {
        key: value for key, value in memory.items() if key in takes or key not in OFF or value == OFF[key]
    }
    return {**changes, "memory": left} if left else {k: v for k, v in changes.items() if k != "memory"}


def free(config: RunConfig) -> Changes:
    """What costs next to nothing."""
    memory = config.memory
    changes = {} if memory.painted == 1 else {"painted": 1}
    return {"memory": changes | ({"offload": "text"} if memory.offload == "none" else {})}


def savings(config: RunConfig, machine: Machine) -> Iterator[Changes]:
    """What may be changed further, from the cheapest to the dearest."""
    memory, estimator = config.memory, config.estimator
    yield {}
    if config.model.precision == "float32" and machine.half:
        weights: Changes = {"model": {"precision": machine.half}}
        yield weights if memory.autocast == "off" else weights | {"memory": {"autocast": "off"}}
    if memory.decoder == "keep":
        yield {"memory": {"decoder": "rerun"}}
    if config.reward.name in PUBLISHED and not config.reward.rerun:
        yield {"reward": {"rerun": True}}
    yield from ({"estimator": {"chunk": chunk}} for chunk in smaller_chunks(estimator.chunk))
    if not memory.checkpoint_denoiser:
        yield {"memory": {"checkpoint_denoiser": True}}
    if not estimator.rerun and "rerun" not in unread_settings(estimator):
        yield {"estimator": {"rerun": True}}
    if memory.offload != "all":
        yield {"memory": {"offload": "all"}}
    if memory.decoder != "slices":
        yield {"memory": {"decoder": "slices"}}


def smaller_chunks(chunk: int) -> list[int]:
    """The proper divisors of a chunk, the largest first: each divides whatever the chunk divides."""
    return [size for size in range(chunk - 1, 0, -1) if chunk % size == 0]


def first_that_fits(config: RunConfig, machine: Machine, budget: float) -> Plan:
    """The first plan of the ladder within `budget` bytes. Raises `PlanError` where even the last needs more."""
    least = math.inf
    for plan in ladder(config, machine):
        if plan.bytes <= budget:
            return plan
        least = plan.bytes
    raise PlanError(
        f"this run needs about {gigabytes(least)} with all savings on, and may use {gigabytes(budget)}",
        f"a device with at least {gigabytes(least)} free",
        "lower sampling.size, estimator.first_order_steps or estimator.sub_chain_length, or choose a smaller checkpoint",
    )


def next_smaller(plan: Plan, machine: Machine) -> Plan | None:
    """The first plan below `plan` on its ladder; None at its foot."""
    below = ladder(plan.config, machine)
    next(below)
    return next(below, None)


def gigabytes(count: float) -> str:
    """Bytes for people, in units of 2³⁰ as cards are sold."""
    return f"{count / 2**30:.1f} GB"
