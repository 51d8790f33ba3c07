"""Where the time of an iteration goes: exclusive seconds of nested spans around what an iteration is made of."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from rlr_core.bench.beds import EMBEDDED, Bed, prepared
from rlr_core.bench.methods import Method
from rlr_core.estimators import HalfOrder, Problem, RecursiveLikelihoodRatio, RewardFunction

REST = "everything else"
WARM_UP = 2
"""Iterations before the clock runs."""


@dataclass
class Stopwatch:
    """Seconds by span; time inside a nested span counts for that one only."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _open: list[str] = field(default_factory=list)
    _since: float = field(default_factory=lambda: time.perf_counter())

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Inside, time counts for `name` within the spans that are open."""
        self.lap()
        self._open.append(name)
        try:
            yield
        finally:
            self.lap()
            self._open.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, in a span."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.span(name):
                return function(*args, **kwargs)

        return call

    def lap(self) -> None:
        """Count the time since the last lap for the spans that are open."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[": ".join(self._open) or REST] += now - self._since
        self._since = now


@dataclass(frozen=True)
class TimedReward:
    """A reward in a span."""

    reward: RewardFunction
    watch: Stopwatch

    @property
    def name(self) -> str:
        """See `RewardFunction.name`."""
        return self.reward.name

    @property
    def differentiable(self) -> bool:
        """See `RewardFunction.differentiable`."""
        return self.reward.differentiable

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        with self.watch.span("reward"):
            return self.reward(images, prompts)


@dataclass(frozen=True)
class TimedProblem(Problem):
    """A problem whose back-propagation is in a span."""

    watch: Stopwatch = field(kw_only=True)

    @classmethod
    def of(cls, problem: Problem, watch: Stopwatch) -> TimedProblem:
        """The same problem, with network, decoder and reward in spans too."""
        values = {f.name: getattr(problem, f.name) for f in fields(problem)} | {
            "denoiser": watch.timed("network", problem.denoiser),
            "decode": watch.timed("decode", problem.decode),
            "reward": TimedReward(problem.reward, watch),
        }
        return cls(**values, watch=watch)

    def gradient(self, objective: Tensor, *, retain_graph: bool = False) -> Tensor:
        """See `Problem.gradient`."""
        with self.watch.span("backward"):
            return super().gradient(objective, retain_graph=retain_graph)


@dataclass(frozen=True)
class TimedHalfOrder(HalfOrder):
    """A half-order part whose spans are told from the rollout's."""

    watch: Stopwatch = field(kw_only=True)

    def gradients(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """See `HalfOrder.gradients`."""
        with self.watch.span("sub-chain"):
            return super().gradients(*args, **kwargs)


def breakdown_settings(
    method: Method, iterations: int, seed: int = 0, bed: Bed = EMBEDDED, **model: Any
) -> dict[str, Any]:
    """What defines a job of `breakdown`."""
    changes = {"training": {"seed": seed}, "model": {"threads": 1, **model}}
    return {**bed.job("breakdown", method.config(bed.settings, changes)), "iterations": iterations}


def breakdown(settings: dict[str, Any]) -> dict[str, Any]:
    """Of one iteration: {"seconds": wall clock, "spans": {name: seconds}, "evaluations": of the network}, means of them all."""
    from rlr_core.trainer import Trainer

    setup = prepared(settings)
    watch = Stopwatch(setup.model.device)
    estimator = setup.estimator
    if isinstance(estimator, RecursiveLikelihoodRatio) and estimator.half:
        estimator.half = TimedHalfOrder(estimator.half.sub_chains, estimator.half.end, watch=watch)
    trainer = Trainer(replace(setup, problems=[TimedProblem.of(each, watch) for each in setup.problems]))
    trainer.optimizer.step = watch.timed("optimizer", trainer.optimizer.step)
    trainer.batch = watch.timed("texts and noise", trainer.batch)
    for _ in range(WARM_UP):
        trainer.iterate()
    watch.lap()
    watch.seconds.clear()
    began, evaluations = time.perf_counter(), 0.0
    for _ in range(settings["iterations"]):
        evaluations += trainer.iterate().evaluations * setup.config.training.batch_size
    watch.lap()
    wall = time.perf_counter() - began
    count = settings["iterations"]
    spans = {name: value / count for name, value in watch.seconds.items()}
    return {"seconds": wall / count, "spans": spans, "evaluations": evaluations / count}
