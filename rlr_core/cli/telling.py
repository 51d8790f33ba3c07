"""What a run is about to do, said before it begins: what was chosen for its user, the method, and by what it is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlr_core.cli.saying import say
from rlr_core.config import Judged, PromptConfig, RunConfig, nearest
from rlr_core.runs.summary import short

if TYPE_CHECKING:
    from rlr_core.trainer.composing import Composed


def tell_defaults(made: Composed) -> None:
    """The defaults of the checkpoint's family that nobody has set."""
    settings = (name.split(".") for name in made.reasons)
    told = [
        f"{section}.{key} = {getattr(getattr(made.config, section), key)}"
        for section, key in settings
        if key not in made.chosen.get(section, {})
    ]
    if told:
        say(f"Set for this checkpoint: {', '.join(told)}. `rlr config --checkpoint FILE` says why.")


def tell_method(config: RunConfig) -> None:
    """The estimator, in the words of `rlr estimators`, and the preset that it comes nearest to."""
    from rlr_core.estimators.library import named

    summary = named(config.estimator.name).summary
    say(f"Estimator {config.estimator.name} (preset {nearest(config)[0]}): {summary}.")


def tell_judge(config: RunConfig, given: PromptConfig) -> None:
    """What scores the pictures, and of which prompts. `given`: the prompts before some were set aside."""
    prompts, judged = config.prompts, Judged.of(config)
    if prompts.held_out and not (given.held_out or given.held_out_file):
        count = len(prompts.train) + len(prompts.held_out)
        say(f"{len(prompts.held_out)} of {count} prompts are set aside to judge by, and not trained on.")
    say(f"Judged by {short(config.reward.held_out)}: {judged.score}, {judged.pairs}.")
