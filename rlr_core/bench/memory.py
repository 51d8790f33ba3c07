"""Peak memory of one iteration's gradient, as the chain and the sub-chain grow.

On CUDA it is the allocator's own figure. On the CPU every tensor that an operation makes is counted while its storage lives,
which gives the same number on every machine. Weights and LoRA are there before and are not counted.
"""

from __future__ import annotations

from typing import Any

import torch

from rlr_core.bench.beds import EMBEDDED, Bed, prepared
from rlr_core.bench.methods import Method
from rlr_core.planner.live import LiveTensors


def memory_settings(
    method: Method, steps: int, length: int, bed: Bed = EMBEDDED, **model: Any
) -> dict[str, Any]:
    """What defines a job of `memory`: T = `steps`, h = `length`, one chunk of pictures at a time."""
    changes = {
        "sampling": {"steps": steps},
        "model": {"threads": 1, **model},
        "training": {"batch_size": 4, "prompts_per_batch": 4},
        "estimator": {"chunk": 4},
    }
    if "sub_chain_length" in method.settings.get("estimator", {}):
        changes["estimator"]["sub_chain_length"] = length
    return bed.job("memory", method.config(bed.settings, changes))


def memory(settings: dict[str, Any]) -> dict[str, Any]:
    """Peak of one gradient, {"megabytes"}."""
    from rlr_core.trainer import Trainer

    return {"megabytes": peak_megabytes(Trainer(prepared(settings)))}


def peak_megabytes(trainer: Any) -> float:
    """Peak of the estimate of one batch, in 10⁶ bytes."""
    batch, setup = trainer.batch(), trainer.setup
    device = setup.model.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        setup.estimator(setup.problem, batch)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    with LiveTensors() as live:
        setup.estimator(setup.problem, batch)
    return live.peak / 1e6
