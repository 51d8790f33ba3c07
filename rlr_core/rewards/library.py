"""Rewards by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import torch

from rlr_core.config import RewardConfig
from rlr_core.errors import RewardError
from rlr_core.rewards.aesthetic import AESTHETIC
from rlr_core.rewards.black_box import jpeg_compressibility, jpeg_incompressibility, sharpness
from rlr_core.rewards.clipscore import CLIPSCORE
from rlr_core.rewards.embedded import clip_reward, held_out_scorer
from rlr_core.rewards.from_file import from_file
from rlr_core.rewards.hps import HPSV2, HPSV21
from rlr_core.rewards.imagereward import IMAGEREWARD
from rlr_core.rewards.pickscore import PICKSCORE
from rlr_core.rewards.published import Published, load_published
from rlr_core.rewards.reward import FunctionReward

REWARDS: dict[str, Callable[[torch.device], FunctionReward]] = {
    "embedded": clip_reward,
    "embedded-held-out": held_out_scorer,
    "jpeg-compressibility": jpeg_compressibility,
    "jpeg-incompressibility": jpeg_incompressibility,
    "sharpness": sharpness,
}
"""Name → what makes the reward, given a device."""

PUBLISHED: dict[str, Published] = {
    each.name: each for each in (PICKSCORE, HPSV2, HPSV21, AESTHETIC, IMAGEREWARD, CLIPSCORE)
}
"""Rewards whose weights others have published."""

LOCAL = RewardConfig(download=False)
"""Settings of rewards that nobody configures: what is missing is not downloaded."""


def load_reward(
    name: str, device: str | torch.device = "cpu", settings: RewardConfig = LOCAL
) -> FunctionReward:
    """The reward called `name`, its weights on `device`.

    Args:
        name: a key of `REWARDS` or `PUBLISHED`, or "path/to/file.py:function".
        device: where a shipped or published reward computes; a user's function decides for itself. On "meta", where there
            are no numbers, it is not run: the pictures' mean stands for it.
        settings: of published rewards: the folder of their weights, and so on.

    Raises:
        RewardError: no such reward, or one that cannot be loaded.
    """
    if name in REWARDS:
        return REWARDS[name](torch.device(device))
    if name in PUBLISHED:
        return load_published(PUBLISHED[name], torch.device(device), settings)
    if (":" in name or name.endswith(".py")) and torch.device(device).type == "meta":
        return FunctionReward(name, True, lambda images, prompts: images.mean((1, 2, 3)))
    if ":" in name or name.endswith(".py"):
        return from_file(name)
    known = (*REWARDS, *PUBLISHED)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else 'your own function is "path/to/file.py:function"'
    raise RewardError(f"there is no reward '{name}'", f"{', '.join(known)}, or file.py:function", hint)
