"""Why a run's LoRA is still 0, from its log: what is told instead of writing a file without effect."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rlr_core.config import RunConfig
from rlr_core.errors import CheckpointError
from rlr_core.lora import LoraWeights
from rlr_core.lora.weights import useless
from rlr_core.runs import log
from rlr_core.trainer.misgivings import Fault, fault

KEYS = "reward", "reward_error", "gradient_norm"
"""Of an iteration's event, what `fault` looks at."""


def refuse_unlearned(weights: LoraWeights, config: RunConfig, events_file: Path) -> None:
    """Raise `CheckpointError` for weights without effect, saying what happened in training."""
    if useless(weights):
        events = log.read(events_file)
        taken, skipped = ([e for e in events if e["type"] == kind] for kind in ("iteration", "skipped"))
        found = _reason(config, taken, skipped)
        raise CheckpointError(
            f"nothing was learned, and the LoRA is not written: {found.what}",
            "a LoRA that has an effect",
            found.do,
        )


def _reason(config: RunConfig, taken: list[dict[str, Any]], skipped: list[dict[str, Any]]) -> Fault:
    if not taken and skipped:
        return Fault(
            f"all {len(skipped)} iterations were skipped, the last because {skipped[-1]['reason']}",
            "check the reward, or use model.precision = float32",
        )
    found = [fault(config, *(_number(event[key]) for key in KEYS)) for event in taken]
    if found and found[-1] and all(found):
        return found[-1]
    return Fault(f"{len(taken)} iterations have left it 0", "train for more iterations")


def _number(value: float | None) -> float:
    """The log has null for what is no number."""
    return math.nan if value is None else value
