"""The way back: where a check shows pictures worse than at the start, training goes back, and on by shorter steps, less far.

A gradient that is biased or noisy may lead a checkpoint astray at a rate by which another one learns. Nobody has to know
beforehand: what is surely worse is undone, and from there on steps have half the length and the limit to the divergence, which
grows with the square of the way, a quarter; as often as it takes. So a run learns, or comes near to standing still.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rlr_core.lora import Lora
from rlr_core.trainer.values import put
from rlr_core.trainer.watch import Watch


@dataclass
class WayBack:
    """What a run has undone so far.

    Attributes:
        lora: of the training.
        start: its values before training, in main memory.
        halvings: how often training has gone back.
    """

    lora: Lora
    start: list[Tensor]
    halvings: int = 0

    @property
    def share(self) -> float:
        """What is left of the steps' length, and of the way from the start."""
        return 0.5**self.halvings

    def take(self, watch: Watch, *, over: bool) -> str:
        """Where the latest check shows something worse, go back; says what, and where to, or "".

        To the best LoRA, where it was surely better than the start, or else to the start. `over`: training ends here, and
        nothing would come of the start, so that it is half the way.
        """
        fallen = watch.fallen
        if not fallen:
            return ""
        self.halvings += 1
        return f"{fallen}. Training goes back to {self._go(watch, over)}, and on by steps of half the length, and half as far"

    def _go(self, watch: Watch, over: bool) -> str:
        if watch.improved:
            self.lora.set_weights(watch.best_lora)
            return f"the LoRA of iteration {watch.best}"
        parameters = self.lora.parameters
        ends = zip(parameters, self.start, strict=True)
        put(parameters, [start.to(p.device).lerp(p.detach(), 0.5 * over) for p, start in ends])
        return "half of what it did" if over else "where it began"
