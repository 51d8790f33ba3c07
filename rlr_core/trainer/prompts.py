"""Where a run's prompts come from, and how they are dealt out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from rlr_core.chain.noise import derive_seed
from rlr_core.config import PromptConfig
from rlr_core.dcot import Boundaries, StagePrompts, StageSettings, parse_line
from rlr_core.dcot.files import parsed, read_lines
from rlr_core.dcot.host_syntax import without_weights
from rlr_core.dcot.wildcards import expanded
from rlr_core.embedded import world
from rlr_core.errors import PromptError
from rlr_core.storage import user_path


def read_prompts(path: str) -> list[str]:
    """The prompts of a file, as lines; see `rlr_core.dcot.files`. Raises `PromptError` naming the file and the line."""
    file = user_path(path)
    lines = read_lines(file)
    parsed(lines, str(file))
    return [line for _, line in lines]


def self_contained_prompts(config: PromptConfig) -> PromptConfig:
    """The config with prompts files read and wildcards expanded, so that it needs no other file. Raises `PromptError`."""
    train = [*config.train, *(read_prompts(config.file) if config.file else [])]
    held_out = [*config.held_out, *(read_prompts(config.held_out_file) if config.held_out_file else [])]
    drawn = {
        "train": _expanded(train, config, config.variants),
        "held_out": _expanded(held_out, config, config.variants),
    }
    return replace(config, **drawn, file="", held_out_file="", wildcards="")


def _expanded(lines: Sequence[str], config: PromptConfig, count: int) -> list[str]:
    folder = user_path(config.wildcards) if config.wildcards else None
    return [
        text
        for number, line in enumerate(lines)
        for text in expanded(line, folder, count, derive_seed("variants", number))
    ]


def training_prompts(config: PromptConfig, *, embedded: bool) -> list[StagePrompts]:
    """Prompts to train on. Raises `PromptError` where none are given and the checkpoint is not the embedded one."""
    given = self_contained_prompts(config).train
    if not given and not embedded:
        raise PromptError(
            "no training prompts",
            "prompts for this checkpoint",
            "give --prompts FILE, or set prompts.train or prompts.file",
        )
    return understood(given or world.TRAIN_PROMPTS, config)


def held_out_prompts(config: PromptConfig) -> list[StagePrompts]:
    """Prompts to measure progress on; where only training prompts are given, those, at seeds never trained on."""
    whole = self_contained_prompts(config)
    return understood(whole.held_out or whole.train or world.HELD_OUT_PROMPTS, config)


def understood(lines: Iterable[str], config: PromptConfig) -> list[StagePrompts]:
    """What lines say, read as the config wants it. Raises `PromptError`."""
    prompts = [parse_line(line) for line in lines]
    return prompts if config.syntax == "literal" else _without_weights(prompts)


def _without_weights(prompts: Sequence[StagePrompts]) -> list[StagePrompts]:
    """Said once for all prompts, with an example."""
    plain, left_out = [], dict[str, str]()

    def told(text: str) -> str:
        words, without = without_weights(text)
        for what in without:
            left_out.setdefault(what, text)
        return words

    for each in prompts:
        texts = {name: tuple(map(told, getattr(each, name))) for name in ("prompts", "negatives")}
        plain.append(replace(each, **texts, intent=told(each.intent)))
    if left_out:
        what, text = next(iter(left_out.items()))
        others = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        warnings.warn(
            f"training reads prompts without {what}{others}, as in '{text}'; prompts.syntax = 'literal' keeps every letter",
            stacklevel=5,
        )
    return plain


def stage_settings(config: PromptConfig) -> StageSettings:
    """What a run says of the stages of all its prompts. Raises `PromptError` for boundaries that are none."""
    boundaries = Boundaries(tuple(config.boundaries), by_noise=config.by_noise) if config.boundaries else None
    negative = config.negative if config.syntax == "literal" else without_weights(config.negative)[0]
    return StageSettings(boundaries, config.blend, negative)


def deal(prompts: Sequence[StagePrompts], count: int, turn: int, seed: int) -> list[StagePrompts]:
    """`count` prompts for batch number `turn`: the list is shuffled anew for every pass through it.

    In a pass every prompt comes as often as it says.
    """
    listed = [prompt for prompt in prompts for _ in range(prompt.count)]
    dealt = []
    for position in range(turn * count, (turn + 1) * count):
        passed, place = divmod(position, len(listed))
        order = torch.Generator().manual_seed(derive_seed(seed, "prompts", passed))
        dealt.append(listed[int(torch.randperm(len(listed), generator=order)[place])])
    return dealt
