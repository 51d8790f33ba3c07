"""What a run would take, in words: memory, time, and what to do where it does not fit."""

from __future__ import annotations

import html
from threading import Lock

from rlr_core.config import RunConfig
from rlr_core.errors import RLRError
from ui.words import duration

_busy = Lock()
"""A rehearsal takes seconds of a processor: one at a time."""


def plan_in_words(config: RunConfig) -> str:
    """HTML. The rehearsal runs the network on shapes alone, without weights."""
    from rlr_core.planner.ladder import first_that_fits, gigabytes, planned
    from rlr_core.planner.machine import free_bytes, this_machine
    from rlr_core.trainer.devices import choose_device

    try:
        with _busy:
            device = choose_device(config.model.device)
            machine = this_machine(device)
            plan = planned(config, {}, machine)
            free = config.memory.budget * 2**30 or free_bytes(device)
            seconds = machine.seconds(plan.footprint, config.model.precision)
            fits = plan if plan.bytes <= free else first_that_fits(config, machine, free)
    except RLRError as error:
        return f'<div class="notice red"><pre>{html.escape(str(error))}</pre></div>'
    time = f"about {duration(seconds * config.training.iterations)} of training, and " if seconds else ""
    told = f"{time}{gigabytes(plan.bytes)} of {gigabytes(free)} that are free ({machine.name})."
    if fits is plan:
        return f'<p class="fact">{html.escape(told[0].upper() + told[1:])}</p>'
    wanted = ", ".join(fits.settings)
    return (
        f'<div class="notice amber"><p>{html.escape(told[0].upper() + told[1:])} That does not fit.</p>'
        f"<p>These settings do, at {gigabytes(fits.bytes)}: <code>{html.escape(wanted)}</code>. "
        "With <b>memory.plan = auto</b> under Advanced the run chooses them itself.</p></div>"
    )
