"""Two processes that share every batch: torch.distributed as a `Collective`, and what a process does with it.

The processes are spawned once for all cases; this module is what they import.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from toy import STEPS, painted_problem, toy_batch, toy_problem

from rlr_core.config import EstimatorConfig
from rlr_core.estimators import Alone, Collective, build
from rlr_core.rewards import FunctionReward, Mix

SIZE = 2
"""Processes."""


class Gloo:
    """All processes of torch's default group."""

    @property
    def size(self) -> int:
        return dist.get_world_size()

    def mine(self, count: int) -> range:
        rank = dist.get_rank()
        return range(count * rank // self.size, count * (rank + 1) // self.size)

    def gather(self, values: Tensor) -> Tensor:
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, values)
        return torch.cat(every)

    def sum(self, values: Tensor) -> Tensor:
        summed = values.clone()
        dist.all_reduce(summed)
        return summed


class GathersOwn(Gloo):
    """Wrong: the others' rows are its own again."""

    def gather(self, values: Tensor) -> Tensor:
        super().gather(values)
        return torch.cat([values] * self.size)


class GathersBackwards(Gloo):
    """Wrong: the rows of all, but in another order."""

    def gather(self, values: Tensor) -> Tensor:
        return super().gather(values).flip(0)


class SumsOwn(Gloo):
    """Wrong: what the others found is left out."""

    def sum(self, values: Tensor) -> Tensor:
        super().sum(values)
        return values


class HasAll(Gloo):
    """Wrong: every process has the whole batch."""

    def mine(self, count: int) -> range:
        return range(count)


COLLECTIVES: dict[str, type[Collective]] = {
    kind.__name__: kind for kind in (Alone, Gloo, GathersOwn, GathersBackwards, SumsOwn, HasAll)
}


@dataclass(frozen=True)
class Case:
    """A named estimator with settings, and a collective; gradients of a few batches in a row."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    batch: int = 8
    collective: str = "Gloo"

    def __str__(self) -> str:
        told = [f"{key}={value}" for key, value in self.settings.items()]
        return "-".join([self.name, *told, *([self.collective] if self.collective != "Gloo" else [])])

    def outcome(self) -> dict[str, Any]:
        """All that the estimator gave and learned, batch after batch; θ moves from one gradient to the next."""
        fitting = {"first_order_steps": 1, "sub_chain_length": 2, "chunk": 2}
        estimator = build(EstimatorConfig(name=self.name, **{**fitting, **self.settings}), STEPS)
        toy = painted_problem() if self.name == "learned_critic" else toy_problem()
        problem = replace(toy, collective=COLLECTIVES[self.collective]())
        estimator.check(problem, self.batch)
        found = {}
        for turn in range(2 * estimator.batch_reuse):
            seed = turn // estimator.batch_reuse
            estimate = estimator(problem, replace(toy_batch(self.batch, seed), seed=turn))
            found[turn] = {
                "gradients": {name: part.gradient for name, part in estimate.parts.items()},
                "errors": {name: part.standard_error for name, part in estimate.parts.items()},
                "rewards": estimate.rewards,
                "cost": [estimate.cost.forward, estimate.cost.backward],
                "learned": estimator.state_dict(),
            }
            with torch.no_grad():
                for parameter in problem.parameters:
                    parameter.add_(0.02)
        return found


@dataclass(frozen=True)
class MixCase:
    """A mix of two rewards with a running scale, after two iterations of which every process scores its pictures."""

    collective: str = "Gloo"

    def __str__(self) -> str:
        return f"mix-{self.collective}"

    def outcome(self) -> dict[str, Any]:
        """The mean of each part in either iteration, and the scales."""
        collective = COLLECTIVES[self.collective]()
        parts = {
            name: FunctionReward(name, True, lambda images, prompts, c=c: images[:, c].mean((1, 2)))
            for c, name in enumerate("rg")
        }
        mix = Mix(parts, {"r": 1.0, "g": 2.0}, {}, running=True)
        start, *batches = torch.rand(3, 7, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        mix.calibrate({name: part(start, [""] * 7) for name, part in parts.items()})
        found = {}
        for turn, images in enumerate(batches):
            for j in collective.mine(7):
                mix(images[j : j + 1], [""])
            found[turn] = mix.settle(collective.sum)
        return {**found, "scales": mix.state_dict()}


def outcomes(cases: Sequence[Case | MixCase], folder: Path) -> list[list[Any]]:
    """For each process, what it found for each case."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(rank, cases, folder)) for rank in range(SIZE)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(SIZE)]


def _work(rank: int, cases: Sequence[Case | MixCase], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=SIZE, timeout=timedelta(seconds=60)
    )
    found = [case.outcome() for case in cases]
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
