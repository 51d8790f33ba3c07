"""The lookahead where predicted pictures rank as finished ones do early in the chain, FlowBP where they do not.

The lookahead is the cheapest signal, and says what is right only where its predictions are worth something; the gradient of the
finished picture is right everywhere, for a whole rollout. Which of them a checkpoint, a reward and T call for is measured
before training (`ranking.py`), once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlr_core.estimators.base import Estimator
from rlr_core.estimators.estimate import Estimate
from rlr_core.estimators.flow_bp import SurrogateChain
from rlr_core.estimators.lookahead import Lookahead
from rlr_core.estimators.problem import Batch, Problem

EARLY = 0.5
"""Of the chain: the lookahead is used where its starts begin in this part. Later ones cost nearly a rollout, too."""


@dataclass
class ByRanking(Estimator):
    """One of the two, as it was measured; before that, and where it cannot be, that of the finished picture.

    Attributes:
        predicted: it starts where it was measured to.
        finished: what looks at finished pictures.
    """

    predicted: Lookahead
    finished: SurrogateChain
    _unreported: int = 0
    _early: bool = False

    @property
    def scores_predictions(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the chosen one does."""
        return self.chosen.scores_predictions

    @property
    def chosen(self) -> Estimator:
        """The one that is used."""
        return self.predicted if self._early else self.finished

    def measures(self, problem: Problem) -> bool:
        """See `Lookahead.measures`."""
        return self.predicted.measures(problem)

    def learn(self, tau: Tensor | None, evaluations: int) -> range | None:
        """Take in how well predictions rank, (T,), and what it cost; the lookahead's starts where it is the one."""
        starts = self.predicted.learn(tau, 0)
        self._unreported = evaluations
        self._early = starts is not None and tau is not None and starts.start < EARLY * len(tau)
        return starts if self._early else None

    def __call__(self, problem: Problem, batch: Batch) -> Estimate:
        estimate = self.chosen(problem, batch)
        estimate.cost.forward += self._unreported
        self._unreported = 0
        return estimate

    def check(self, problem: Problem, batch_size: int) -> None:
        self.predicted.check(problem, batch_size)
        self.finished.check(problem, batch_size)

    def coverage(self, problem: Problem) -> Tensor:
        """The chosen one's."""
        return self.chosen.coverage(problem)

    def state_dict(self) -> dict[str, Any]:
        known = self.predicted.state_dict()
        return known | {"early": self._early, "owed": self._unreported} if known else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        known = dict(state)
        self._early, self._unreported = known.pop("early", False), known.pop("owed", 0)
        self.predicted.load_state_dict(known)
