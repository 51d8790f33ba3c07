"""Training that cannot lead anywhere: better told after its first iterations than at its end."""

from __future__ import annotations

from dataclasses import dataclass

from rlr_core.config import RunConfig
from rlr_core.trainer.events import Iteration, Skipped

EARLY = 3
"""The iteration that is looked at."""
FAINT = 1e-12
"""Of a gradient's norm: Adam's ε is 1e-8, and what is far below it moves nothing."""

LEARN_FIRST = {"learned_critic": 25}
"""Estimators whose gradient is 0 until they know something, and the iteration at which they should."""


@dataclass(frozen=True)
class Fault:
    """Why an iteration teaches nothing.

    Attributes:
        what: happened.
        do: about it.
    """

    what: str
    do: str


def stands_still(config: RunConfig) -> bool:
    """Whether every step has the length 0."""
    return config.training.step == "rate" and config.training.learning_rate == 0


def fault(config: RunConfig, reward: float, spread: float, gradient: float) -> Fault | None:
    """What is wrong with an iteration; None where nothing is.

    Args:
        config: of its run.
        reward: mean of its pictures.
        spread: its standard error; NaN where there is one picture.
        gradient: norm of the gradient.
    """
    if stands_still(config):
        return Fault("training.learning_rate is 0: nothing is learned", "raise training.learning_rate")
    if spread == 0:
        told = f"all pictures got the reward {reward:g}: there is nothing to learn from"
        return Fault(told, "check the reward: it has to tell pictures apart")
    if gradient == 0 and config.estimator.name in LEARN_FIRST:
        return Fault(
            "the network that learns the reward has not guessed right yet on new pictures: nothing moves until it does",
            "give it time, raise training.batch_size, or set estimator.name = nft",
        )
    if gradient == 0:
        told = "the gradient is 0, whatever the rewards are"
        return Fault(
            told, "check the reward's gradient, or use an estimator that needs none: --preset black-box"
        )
    if gradient < FAINT:
        return Fault(
            f"the gradient's norm is {gradient:.1g}: Adam hardly moves",
            "multiply the reward by a larger number",
        )
    return None


def misgiving(config: RunConfig, taken: Iteration | Skipped) -> str:
    """What is to be told with an iteration; "" for nothing. In the first one pictures may be alike by chance."""
    learned = LEARN_FIRST.get(config.estimator.name, EARLY)
    looked_at = (1,) if stands_still(config) else (EARLY, learned)
    if not isinstance(taken, Iteration) or taken.iteration not in looked_at:
        return ""
    gradient = taken.gradient_norm if taken.iteration == learned else 1.0  # too early to be judged
    found = fault(config, taken.reward, taken.reward_error, gradient)
    return f"iteration {taken.iteration}: {found.what}; {found.do}" if found else ""
