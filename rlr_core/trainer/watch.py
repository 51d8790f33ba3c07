"""What becomes of the checks: the best LoRA so far, and the alarm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlr_core.config import RunConfig
from rlr_core.lora import LayerWeights, LoraWeights, Place
from rlr_core.trainer.alarm import TRAINED, Alarm
from rlr_core.trainer.events import AlarmRaised, Evaluation, NewBest

HELD_OUT = "held-out score"
"""Name of the series by which a LoRA is the best."""


class Watch:
    """Takes up evaluations at the start and on the way.

    Attributes:
        pictures: of an evaluation, the first so many count; 0 for no checks.
        checks: iterations of the checks so far.
        best: iteration of the highest held-out score since the start, `best_lora` the LoRA there.
        raised: whether the alarm has been raised; it is raised once.
    """

    def __init__(self, config: RunConfig):
        output = config.output
        self.pictures = min(config.alarm.pictures, output.evaluation)
        self.checks: list[int] = []
        self.best, self.best_score = -1, -math.inf
        self.best_lora: LoraWeights = {}
        self.raised = False
        iterations = config.training.iterations
        planned = 1 + math.ceil(iterations / (output.preview_every or iterations))
        self._alarm = Alarm(planned, config.alarm.false_alarms)

    def judge(self, evaluation: Evaluation, lora: Callable[[], LoraWeights]) -> list[NewBest | AlarmRaised]:
        """Take up an evaluation of the LoRA that `lora` copies, and say what is to be told."""
        scores = {
            TRAINED: evaluation.rewards,
            HELD_OUT: evaluation.scores,
            **evaluation.watched,
            "diversity": evaluation.statistics["diversity"],
        }
        scores = {name: values[: self.pictures] for name, values in scores.items()}
        told = [self._compare(evaluation.iteration, scores, lora), self._listen(evaluation.iteration, scores)]
        return [event for event in told if event]

    def _compare(
        self, iteration: int, scores: dict[str, Tensor], lora: Callable[[], LoraWeights]
    ) -> NewBest | None:
        score = float(scores[HELD_OUT].mean())
        if self._is_as_at_the_start(scores) or not self.best_score < score < math.inf:  # NaN is no score
            return None
        self.best, self.best_score, self.best_lora = iteration, score, lora()
        return NewBest(iteration, score, self.best_lora)

    def _is_as_at_the_start(self, scores: dict[str, Tensor]) -> bool:
        """Whether nothing has been learned yet, as where every iteration so far was skipped."""
        start = self._alarm.history[:1]
        return not start or torch.equal(start[0][HELD_OUT], scores[HELD_OUT].double())

    def _listen(self, iteration: int, scores: dict[str, Tensor]) -> AlarmRaised | None:
        self.checks.append(iteration)
        falls = self._alarm(scores)
        if self.raised or not falls:
            return None
        self.raised = True
        start, now = (_mean(check[TRAINED]) for check in self._alarm.history[:: len(self.checks) - 1])
        return AlarmRaised(iteration, self.checks[falls[0].check], falls, (start, now), self.best)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "checks": list(self.checks),
            "best": self.best,
            "best_score": self.best_score,
            "best_lora": {tuple(place): dict(vars(layer)) for place, layer in self.best_lora.items()},
            "raised": self.raised,
            "alarm": self._alarm.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.checks = list(state["checks"])
        for name in ("best", "best_score", "raised"):
            setattr(self, name, state[name])
        self.best_lora = {Place(*place): LayerWeights(**layer) for place, layer in state["best_lora"].items()}
        self._alarm.load_state_dict(state["alarm"])


def _mean(scores: Tensor) -> float:
    """Of those that are finite."""
    return float(scores[scores.isfinite()].mean())
