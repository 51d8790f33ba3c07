"""Before and after the first iterations: does the run fit, and what if it does not."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator

import torch

from rlr_core.config import RunConfig
from rlr_core.errors import PlanError, RLRError
from rlr_core.planner.ladder import Plan, first_that_fits, gigabytes, next_smaller, planned
from rlr_core.planner.machine import free_bytes, this_machine
from rlr_core.storage import user_path
from rlr_core.trainer.devices import choose_device

SMALL = 20
"""A checkpoint that main memory holds this many times is trained on the CPU without a rehearsal."""
WORDS = ("out of memory", "can't allocate memory", "not enough memory", "CUDNN_STATUS_ALLOC_FAILED")
"""What devices say that have no exception of their own for it."""


def fitted(config: RunConfig) -> Plan | None:
    """The plan that the run begins with; None where nothing had to be predicted.

    Raises `PlanError` with a proposal where the run would not fit a graphics card. On a CPU it warns.
    """
    device, settings = choose_device(config.model.device), config.memory
    if settings.plan == "off":
        return None
    free = free_bytes(device)
    budget = min(settings.budget * 2**30, free) if settings.budget else free
    if device.type == "cpu" and not settings.budget and SMALL * checkpoint_bytes(config) < free:
        return None
    machine = this_machine(device)
    try:
        if settings.plan == "auto":
            return first_that_fits(config, machine, budget)
        plan = planned(config, {}, machine)
    except RLRError:
        raise
    except Exception as error:
        warnings.warn(f"what the run needs could not be predicted ({error!r}); it is tried", stacklevel=2)
        return None
    if plan.bytes > budget:
        _refuse(plan, budget, device.type, first_that_fits(config, machine, budget).settings)
    return plan


def _refuse(plan: Plan, budget: float, kind: str, settings: list[str]) -> None:
    got = f"this run needs about {gigabytes(plan.bytes)}, and may use {gigabytes(budget)}"
    proposal = " ".join(f"--set {setting}" for setting in settings)
    if kind == "cpu":
        warnings.warn(f"{got}; these settings fit: {proposal}", stacklevel=3)
        return
    raise PlanError(got, "settings that fit", f"{proposal}  (or --set memory.plan=auto, which chooses them)")


def checkpoint_bytes(config: RunConfig) -> int:
    """Of the checkpoint's weights on the disk; the embedded one counts as none."""
    path = user_path(config.model.checkpoint)
    if config.model.checkpoint == "embedded":
        return 0
    files = path.glob("*/*.safetensors") if os.path.isdir(path) else [path]
    return sum(os.path.getsize(file) for file in files if os.path.isfile(file))


def smaller(config: RunConfig) -> Plan:
    """The next plan below a config that did not fit. Raises `PlanError` where there is none."""
    machine = this_machine(choose_device(config.model.device))
    plan = next_smaller(planned(config, {}, machine), machine)
    if plan is None or config.memory.plan == "off":
        raise PlanError(
            "the device is out of memory",
            "a run that fits",
            "`rlr plan` shows what each setting saves; or lower sampling.size, or close other programs",
        )
    return plan


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or what caused it, is a device that has no memory left."""
    return any(
        isinstance(link, torch.OutOfMemoryError)
        or (isinstance(link, RuntimeError) and any(word in str(link) for word in WORDS))
        for link in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def release() -> None:
    """Give back what nobody refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
