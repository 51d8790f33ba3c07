"""Rewards: pictures and prompts → scores. Each says whether gradients flow through it.

`load_reward` takes "embedded" (differentiable), "embedded-held-out" (only watches), the name of a published reward
(differentiable) or "file.py:function" (any Python function).
"""

from rlr_core.rewards.library import PUBLISHED, REWARDS, load_reward
from rlr_core.rewards.reward import Reward

__all__ = ["PUBLISHED", "REWARDS", "Reward", "load_reward"]
