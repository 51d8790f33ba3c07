"""What the published rewards cost at full size: time and memory of loading, of scoring and of a gradient.

Weights are random, in the published files' layout: neither time nor memory depends on their values. Each reward is measured in
a process of its own.
"""

from __future__ import annotations

import gc
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlr_core.bench.memory import LiveTensors
from rlr_core.bench.random_weights import write_random
from rlr_core.bench.study import table
from rlr_core.planner.machine import peak_bytes
from rlr_core.rewards import PUBLISHED
from rlr_core.rewards.networks import Placement
from rlr_core.rewards.published import Scorer

PICTURES, SIDE = 4, 512
PROMPTS = ["a red cat, sitting on a chair by the window"] * PICTURES
MB = 1e6


@dataclass(frozen=True)
class Usage:
    """Of one call.

    Attributes:
        seconds: as `seconds` counts them.
        megabytes: peak of the tensors that it makes, weights not counted; in 10⁶ bytes.
    """

    seconds: float
    megabytes: float

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.megabytes:.0f} MB"


def study_rewards(names: Iterable[str], folder: Path, device: str, dtype: str) -> str:
    """A table with a row for each reward.

    Args:
        names: of published rewards.
        folder: for the files with random weights; each is deleted when its reward is done.
        device: "cpu" or "cuda".
        dtype: of the network.
    """
    rows = []
    for name in names:
        place = folder / f"random-{name}"
        try:
            write_random(name, place)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(measure, (name, place, device, dtype)))
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return table(list(rows[0]), [list(row.values()) for row in rows])


def measure(name: str, folder: Path, device: str, dtype: str) -> dict[str, str]:
    """One reward, from files that are there: a row of the table."""
    published = PUBLISHED[name]
    paths = [folder / file.place for file in published.files]
    images = torch.rand(PICTURES, 3, SIDE, SIDE, device=device)
    kept: list[Scorer] = []

    def load(*, rerun: bool) -> None:
        kept[:] = [published.make(paths, Placement(torch.device(device), getattr(torch, dtype), rerun))]

    row = {"reward": name, "loading": f"{seconds(lambda: load(rerun=False), device):.1f} s"}
    row["score"] = str(usage(lambda: score(kept[0], images), device))
    row["gradient"] = str(usage(lambda: gradient(kept[0], images), device))
    row["whole process"] = f"{peak_bytes(torch.device('cpu')) / MB:.0f} MB"
    kept.clear()
    gc.collect()
    load(rerun=True)
    return {**row, "gradient with rerun": str(usage(lambda: gradient(kept[0], images), device))}


@torch.no_grad()
def score(scorer: Scorer, images: torch.Tensor) -> None:
    """Without a graph."""
    scorer(images, PROMPTS)


def gradient(scorer: Scorer, images: torch.Tensor) -> None:
    """Of the scores' sum with respect to the pictures."""
    images = images.clone().requires_grad_()
    torch.autograd.grad(scorer(images, PROMPTS).sum(), images)


def usage(call: Callable[[], Any], device: str) -> Usage:
    """Of one call; on a GPU the time is that of a second one, since the first one warms up."""
    if device == "cpu":
        with LiveTensors() as live:
            took = seconds(call, device)
        return Usage(took, live.peak / MB)
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - held
    return Usage(seconds(call, device), peak / MB)


def seconds(call: Callable[[], Any], device: str) -> float:
    """Of the processor, which other programs do not prolong; on a GPU, of the clock."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    began = clock()
    call()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return clock() - began
