"""How much each part of the gradient counts in the step that is taken.

Adam normalises the sum of the parts, so that the noisiest one would drown the quietest. Each part is therefore shrunk by the
share of its squared norm that is signal, 1 − SE²/|g|² (the Wiener, or James-Stein, factor), from running means; the largest
weight is 1. The sum with all weights 1 is the unbiased gradient; the weights trade a bias for a far better step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlr_core.estimators import Part


@dataclass
class Weighing:
    """Weights in [0, 1] for the parts of an estimate.

    Attributes:
        by_signal: shrink by measured signal; else every weight is 1.
        decay: how much of the running means stays after an iteration.
    """

    by_signal: bool
    decay: float = 0.9
    moments: dict[str, list[float]] = field(default_factory=dict)

    def __call__(self, parts: Mapping[str, Part]) -> dict[str, float]:
        """The weight of each part. A single chunk tells no standard error: then, and where all is noise, they are all 1."""
        if not self.by_signal or any(math.isnan(part.standard_error) for part in parts.values()):
            return dict.fromkeys(parts, 1.0)
        shares = {name: self._signal_share(name, part) for name, part in parts.items()}
        largest = max(shares.values())
        return {name: share / largest if largest > 0 else 1.0 for name, share in shares.items()}

    def _signal_share(self, name: str, part: Part) -> float:
        new = [part.norm**2, part.standard_error**2]
        old = self.moments.get(name, new)
        self.moments[name] = [self.decay * a + (1 - self.decay) * b for a, b in zip(old, new, strict=True)]
        total, noise = self.moments[name]
        return max(0.0, 1 - noise / total) if total > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """The running means."""
        return dict(self.moments)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.moments = {name: list(values) for name, values in state.items()}
