"""Rewards: pictures and prompts → scores. Each says whether gradients flow through it.

`load_reward` takes "embedded" (differentiable), "embedded-held-out" (only watches), the name of a published reward
(differentiable) or of a black box, or "file.py:function" (any Python function). `load_mix` makes one of several, `FrameReward`
one of videos; `statistics` tells what pictures are like. Training calls a reward, which may learn; `measure` only looks.
"""

from rlr_core.rewards.frames import FrameReward
from rlr_core.rewards.library import PUBLISHED, REWARDS, load_reward
from rlr_core.rewards.mix import Mix, load_mix
from rlr_core.rewards.pictures import Pictures, alike, assembled, stills
from rlr_core.rewards.published import Published
from rlr_core.rewards.reward import FunctionReward, Reward, Scores
from rlr_core.rewards.statistics import statistics

__all__ = [
    "PUBLISHED", "REWARDS", "FrameReward", "FunctionReward", "Mix", "Pictures", "Published", "Reward", "Scores", "alike",
    "assembled", "load_mix", "load_reward", "statistics", "stills",
]  # fmt: skip
