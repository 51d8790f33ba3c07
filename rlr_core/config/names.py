"""Names in a config that files get."""

from __future__ import annotations

from rlr_core.file_names import name_problem

TAKEN = ("worker", "summary")
"""A run's folder has files of these names that end as a LoRA's card does, in .json."""


def lora_name_problem(name: str) -> str:
    """Why a LoRA file in a run's folder cannot be called `name`; "" where it can."""
    if name.lower() in TAKEN:
        return "the run's folder has a file of that name"
    return name_problem(name)
