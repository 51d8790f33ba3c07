"""What a run's pictures are judged by, in words that claim no more than is so."""

from __future__ import annotations

from dataclasses import dataclass

from rlr_core.config.sections import PromptConfig, RunConfig


@dataclass(frozen=True)
class Judged:
    """What scores a run's evaluations, and on which prompts.

    Attributes:
        held_out: whether that reward is none that is trained on.
        prompts: how many prompts the pictures are of, and `trained` how many of them are trained on, too.
    """

    held_out: bool
    prompts: int
    trained: int

    @classmethod
    def of(cls, config: RunConfig) -> Judged:
        """Of a config whose prompts files are read (see `decided`); the embedded world's prompts are never trained on."""
        reward, own = config.reward, _own(config.prompts)
        held_out = reward.held_out != reward.name and not (
            reward.name == "mix" and reward.held_out in reward.mix
        )
        return cls(held_out, len(own), len(own & set(config.prompts.train)))

    @property
    def score(self) -> str:
        """What the score is called."""
        return "held-out score" if self.held_out else "score by the trained reward"

    @property
    def title(self) -> str:
        """The score, and what it is of where that says less than the name."""
        name = self.score[0].upper() + self.score[1:]
        return name if self.held_out and not self.trained else f"{name} ({self.pairs})"

    @property
    def pairs(self) -> str:
        """What the pictures are of."""
        if self.trained == 0:
            return "prompts and seeds never trained on"
        if self.trained == self.prompts:
            return "same prompts, other seeds"
        return f"other seeds, {self.trained} of {self.prompts} prompts the same"


def _own(prompts: PromptConfig) -> set[str]:
    """Those given that pictures are judged on; none where they are the embedded world's."""
    return set(prompts.held_out or prompts.train)
