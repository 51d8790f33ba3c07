"""Where a run's prompts come from, and how they are dealt out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlr_core.chain.noise import derive_seed
from rlr_core.config import PromptConfig
from rlr_core.embedded import world
from rlr_core.errors import PromptError
from rlr_core.storage import read_text, user_path

MOST_BYTES = 4 * 2**20
"""Of a prompts file."""
LONGEST = 10_000
"""Letters of a prompt; text encoders read the first 77 tokens."""


def read_prompts(path: str) -> list[str]:
    """The lines of a UTF-8 text file, without blank ones and those that begin with #. Raises `PromptError` naming the file."""
    advice = "write one prompt per line and save the file as UTF-8"
    try:
        text = read_text(user_path(path), MOST_BYTES)
    except OSError as error:
        raise PromptError(
            f"the prompts file {path} cannot be read ({error.strerror})", "a text file", advice
        ) from None
    except UnicodeDecodeError as error:
        raise PromptError(
            f"the prompts file {path} is not UTF-8 (byte {error.start})", "a UTF-8 text file", advice
        ) from None
    lines = [line.strip() for line in text.splitlines()]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise PromptError(f"the prompts file {path} is empty", "at least one prompt", advice)
    return prompts


def training_prompts(config: PromptConfig, *, embedded: bool) -> list[str]:
    """Prompts to train on. Raises `PromptError` where none are given and the checkpoint is not the embedded one."""
    given = [*config.train, *(read_prompts(config.file) if config.file else [])]
    if not given and not embedded:
        raise PromptError(
            "no training prompts",
            "prompts for this checkpoint",
            "give --prompts FILE, or set prompts.train or prompts.file",
        )
    return _checked(given or list(world.TRAIN_PROMPTS))


def held_out_prompts(config: PromptConfig) -> list[str]:
    """Prompts to measure progress on; where only training prompts are given, those, at seeds never trained on."""
    given = [*config.held_out, *(read_prompts(config.held_out_file) if config.held_out_file else [])]
    if given:
        return _checked(given)
    if config.train or config.file:
        return training_prompts(config, embedded=False)
    return list(world.HELD_OUT_PROMPTS)


def _checked(prompts: list[str]) -> list[str]:
    if any(not prompt.strip() for prompt in prompts):
        raise PromptError("an empty prompt in the list", "prompts with words", "remove it")
    longest = max(prompts, key=len)
    if len(longest) > LONGEST:
        raise PromptError(
            f"a prompt of {len(longest)} letters: {longest[:60]} …",
            f"at most {LONGEST}",
            "write one per line",
        )
    return prompts


def deal(prompts: Sequence[str], count: int, turn: int, seed: int) -> list[str]:
    """`count` prompts for batch number `turn`: the list is shuffled anew for every pass through it."""
    dealt = []
    for position in range(turn * count, (turn + 1) * count):
        passed, place = divmod(position, len(prompts))
        order = torch.Generator().manual_seed(derive_seed(seed, "prompts", passed))
        dealt.append(prompts[int(torch.randperm(len(prompts), generator=order)[place])])
    return dealt
