"""What becomes of the checks: the best LoRA so far, and the alarm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rlr_core.config import RunConfig
from rlr_core.lora import LayerWeights, LoraWeights, Place
from rlr_core.trainer.alarm import DIVERSITY, HELD_OUT, TRAINED, Alarm, Fall
from rlr_core.trainer.events import AlarmRaised, Evaluation, NewBest


class Watch:
    """Takes up evaluations at the start, on the way and at the end.

    Attributes:
        pictures: that a check on the way has at first, and by which a LoRA is the best; 0 for no checks.
        checks: iterations of the checks so far.
        best: iteration of the highest held-out score since the start, `best_lora` the LoRA there.
        raised: whether the alarm has been raised; it is raised once.
    """

    def __init__(self, config: RunConfig):
        output = config.output
        self.pictures, self._all = min(config.alarm.pictures, output.evaluation), output.evaluation
        self.checks: list[int] = []
        self.best, self.best_score = -1, -math.inf
        self.best_lora: LoraWeights = {}
        self.raised = False
        iterations = config.training.iterations
        planned = 2 + math.ceil(iterations / (output.preview_every or iterations))
        self._alarm = Alarm(planned, config.alarm.false_alarms)

    def doubts(self, seen: Evaluation) -> list[int]:
        """Iterations of whose LoRAs all pairs have to be seen before `judge`, that of `seen` included: it may have fallen."""
        if self.raised or not self.pictures:
            return []
        now = _scores(seen)
        doubted = self._alarm.doubted(now, self._best_check)
        pairs = {self.checks[check]: len(self._alarm.history[check][HELD_OUT]) for check in doubted}
        pairs |= {seen.iteration: len(now[HELD_OUT])} if doubted else {}
        return [iteration for iteration, known in pairs.items() if known < self._all]

    def judge(
        self,
        evaluation: Evaluation,
        lora: Callable[[], LoraWeights],
        closer: Mapping[int, Evaluation] | None = None,
    ) -> list[NewBest | AlarmRaised]:
        """Take up an evaluation of the LoRA that `lora` copies, and say what is to be told.

        Args:
            closer: by iteration, evaluations of what `doubts` names.
        """
        seen = dict(closer or {})
        scores = _scores(seen.pop(evaluation.iteration, evaluation))
        for iteration, complete in seen.items():
            self._alarm.replace(self.checks.index(iteration), _scores(complete))
        falls = self._alarm(scores, self._best_check)
        self.checks.append(evaluation.iteration)
        told = [self._compare(evaluation.iteration, scores, lora), self._raise(evaluation.iteration, falls)]
        return [event for event in told if event]

    def _compare(
        self, iteration: int, scores: dict[str, Tensor], lora: Callable[[], LoraWeights]
    ) -> NewBest | None:
        held_out = scores[HELD_OUT][: self.pictures]
        score = float(held_out.mean())
        if self._is_as_at_the_start(held_out) or not self.best_score < score < math.inf:  # NaN is no score
            return None
        self.best, self.best_score, self.best_lora = iteration, score, lora()
        return NewBest(iteration, score, self.pictures, self.best_lora)

    @property
    def improved(self) -> bool:
        """Whether an earlier check than the latest has the best LoRA, and surely a held-out score above the start's."""
        return (
            bool(self.best_lora) and self.best < self.checks[-1] and self._alarm.rose(self._best_check or 0)
        )

    @property
    def fallen(self) -> str:
        """What the latest check shows to have fallen below the start, in words; "" for nothing. More is in doubt sooner."""
        return "; ".join(self._alarm.below_the_start()) if len(self.checks) > 1 else ""

    def _is_as_at_the_start(self, held_out: Tensor) -> bool:
        """Whether nothing has been learned yet, as where every iteration so far was skipped."""
        start = self._alarm.history[0][HELD_OUT][: self.pictures]
        return len(self.checks) == 1 or torch.equal(start, held_out.double())

    def _raise(self, iteration: int, falls: list[Fall]) -> AlarmRaised | None:
        if self.raised or not falls or not self.pictures:
            return None
        self.raised = True
        start, now = self._alarm.history[0][TRAINED], self._alarm.history[-1][TRAINED]
        trained = (_mean(start[: len(now)]), _mean(now))
        return AlarmRaised(iteration, self.checks[falls[0].check], falls, trained, self.best)

    @property
    def _best_check(self) -> int | None:
        """Number of the best LoRA's check, where there is one."""
        return self.checks.index(self.best) if self.best_lora else None

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


def _scores(evaluation: Evaluation) -> dict[str, Tensor]:
    return {
        TRAINED: evaluation.rewards,
        HELD_OUT: evaluation.scores,
        **evaluation.watched,
        DIVERSITY: evaluation.statistics[DIVERSITY],
    }


def _mean(scores: Tensor) -> float:
    """Of those that are finite."""
    return float(scores[scores.isfinite()].mean())
