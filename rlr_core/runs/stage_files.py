"""How prompts by stage are used in hosts, written beside the LoRA that was trained with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlr_core.chain import Schedule
from rlr_core.config import Size
from rlr_core.dcot import StagePrompts, StageSettings
from rlr_core.dcot.hosts import prompt_editing, snippet
from rlr_core.runs.comfyui_graph import graph
from rlr_core.runs.painted import Painted
from rlr_core.storage import write_text
from rlr_core.trainer import Setup

MOST = 200
"""Prompts in the file for A1111 and Forge."""
HEAD = """\
Prompts by stage, for A1111 and Forge: paste one, with the LoRA. They hold for any number of steps{limit}.

"""


def write_stage_files(lora: Path, setup: Setup, size: Size) -> list[Path]:
    """Write `<stem>.prompts.txt` (A1111, Forge), `<stem>.comfyui.json` and `<stem>.diffusers.py`; none of plain prompts.

    The last two are of the first prompt with stages. `size` is width and height in pixels.
    """
    staged = [prompt for prompt in setup.prompts if len(prompt.prompts) > 1]
    if not staged:
        return []
    first, settings, schedule = staged[0], setup.stages, setup.canvases[0].schedule
    given = {"lora": lora.name, "size": size, "guidance": setup.config.sampling.guidance_scale}
    painted = replace(Painted.by(setup.config, lora, hashed=False), size=size, checkpoint=setup.model.name)
    program = lora.with_suffix(".diffusers.py")
    whole = {
        lora.with_suffix(".prompts.txt"): _editing(staged, settings, schedule),
        lora.with_suffix(".comfyui.json"): json.dumps(
            graph(painted.told(first, settings, schedule)), ensure_ascii=False, indent=2
        ),
        program: snippet(first, settings, schedule=schedule, name=program.name, **given),
    }
    for file, text in whole.items():
        write_text(file, text)
    return list(whole)


def _editing(staged: Sequence[StagePrompts], settings: StageSettings, schedule: Schedule) -> str:
    by_noise = any(settings.boundaries_of(prompt).by_noise for prompt in staged)
    limit = f" near {schedule.steps}, since their boundaries are levels of noise" if by_noise else ""
    return HEAD.format(limit=limit) + "\n".join(
        _entry(prompt, settings, schedule) for prompt in staged[:MOST]
    )


def _entry(prompt: StagePrompts, settings: StageSettings, schedule: Schedule) -> str:
    positive, negative = prompt_editing(prompt, settings, schedule)
    return f"{positive}\n" + (f"Negative prompt: {negative}\n" if negative else "")
