"""What a config leaves to us, decided before anything is loaded: who judges the pictures, and on which prompts."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path

from rlr_core.config import PromptConfig, RewardConfig, RunConfig
from rlr_core.embedded import world
from rlr_core.errors import PromptError
from rlr_core.rewards import PUBLISHED
from rlr_core.rewards.published_files import find
from rlr_core.trainer.prompts import held_out_prompts, self_contained_prompts

ENOUGH = 10
"""Different training prompts, of which some can be spared."""
EVERY = 5
"""So many training prompts, one after the other, give one."""
JUDGES = ("pickscore", "imagereward", "hpsv2.1", "hpsv2", "clipscore", "aesthetic")
"""Published rewards that judge where nobody is named; the first that is installed. The last one does not look at prompts."""


def decided(config: RunConfig) -> RunConfig:
    """The config with its prompts files read, some prompts held out, and the name of its judge. Raises `PromptError`."""
    config = dataclasses.replace(config, prompts=_set_aside(self_contained_prompts(config.prompts)))
    return dataclasses.replace(config, reward=dataclasses.replace(config.reward, held_out=_judge(config)))


def _set_aside(config: PromptConfig) -> PromptConfig:
    """Every fifth of the different training prompts becomes a held-out one, where none are given and there are enough."""
    different = list(dict.fromkeys(config.train))
    if config.held_out or len(different) < ENOUGH:
        return config
    held_out = dict.fromkeys(different[EVERY - 1 :: EVERY])
    train = [prompt for prompt in config.train if prompt not in held_out]
    return dataclasses.replace(config, train=train, held_out=list(held_out))


def _judge(config: RunConfig) -> str:
    """The held-out reward's name."""
    reward = config.reward
    if reward.held_out != "auto":
        return reward.held_out
    embedded = config.model.checkpoint == "embedded" and not _trains_on(reward, "embedded-held-out")
    if embedded and _is_of_the_world(config.prompts):
        return "embedded-held-out"
    return next((name for name in JUDGES if _can_judge(reward, name)), reward.name)


def _trains_on(reward: RewardConfig, name: str) -> bool:
    return name == reward.name or (reward.name == "mix" and name in reward.mix)


def _is_of_the_world(prompts: PromptConfig) -> bool:
    """Whether the embedded scorer knows all words of the prompts that it would be asked about."""
    try:
        for prompt in held_out_prompts(prompts):
            world.asked(prompt.scored)
    except PromptError:
        return False
    return True


def _can_judge(reward: RewardConfig, name: str) -> bool:
    """Whether a published reward is not trained on, and there: its files, and the libraries that it needs."""
    there = all(find(file, Path(reward.folder)) for file in PUBLISHED[name].files)
    return there and not _trains_on(reward, name) and all(map(find_spec, ("open_clip", "transformers")))
