"""Rewards by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import torch

from rlr_core.errors import RewardError
from rlr_core.rewards.embedded import clip_reward, held_out_scorer
from rlr_core.rewards.from_file import from_file
from rlr_core.rewards.reward import Reward

REWARDS: dict[str, Callable[[torch.device], Reward]] = {
    "embedded": clip_reward,
    "embedded-held-out": held_out_scorer,
}
"""Name → what makes the reward, given a device."""


def load_reward(name: str, device: str | torch.device) -> Reward:
    """The reward called `name`, its weights on `device`.

    Args:
        name: a key of `REWARDS`, or "path/to/file.py:function".
        device: where a shipped reward computes; a user's function decides for itself.

    Raises:
        RewardError: no such reward, or one that cannot be loaded.
    """
    if name in REWARDS:
        return REWARDS[name](torch.device(device))
    if ":" in name or name.endswith(".py"):
        return from_file(name)
    near = difflib.get_close_matches(name, REWARDS, n=1)
    hint = f"did you mean '{near[0]}'?" if near else 'your own function is "path/to/file.py:function"'
    raise RewardError(f"there is no reward '{name}'", f"{', '.join(REWARDS)}, or file.py:function", hint)
