"""From what is filled in on the Train page to a config, and back. Settings that nobody touched keep their defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from rlr_core.config import (
    RunConfig,
    Tables,
    changes,
    from_dict,
    merged,
    parse_override,
    read_settings,
    to_dict,
)
from rlr_core.config.toml import value_text
from rlr_core.dcot import format_line, parse_line
from rlr_core.dcot.texts import lines_of
from rlr_core.embedded import DEMO
from rlr_core.errors import ConfigError, PromptError
from ui.words import BLACK_BOXES, WITHOUT_GRADIENT

SIMPLE = (
    "model.checkpoint", "reward.name", "reward.mix", "reward.held_out", "reward.folder", "prompts.train",
    "prompts.held_out", "prompts.file", "prompts.held_out_file", "prompts.boundaries", "lora.rank", "training.iterations",
    "training.seed", "output.name",
)  # fmt: skip
"""Settings that the page has fields of its own for; all others are under Advanced."""
EMBEDDED = "embedded"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One line of Advanced, from the config's own metadata.

    Attributes:
        name: as "training.learning_rate".
        default: as TOML writes it.
        comment: its explanation.
        choices: that it has; ("true", "false") of a switch; () for anything.
    """

    name: str
    default: str
    comment: str
    choices: tuple[str, ...]


def settings() -> Iterator[tuple[str, str, list[Setting]]]:
    """Section, what it is about, and its settings, of those that `SIMPLE` leaves."""
    defaults = to_dict(RunConfig())
    for section in dataclasses.fields(RunConfig):
        kind: Any = section.default_factory
        found = [
            _setting(
                f"{section.name}.{field.name}",
                defaults[section.name][field.name],
                field.metadata["comment"],
                field.metadata["choices"],
            )
            for field in dataclasses.fields(kind)
            if f"{section.name}.{field.name}" not in SIMPLE
        ]
        yield section.name, (kind.__doc__ or "").strip(), found


def _setting(name: str, default: Any, comment: str, choices: tuple[str, ...]) -> Setting:
    if isinstance(default, bool):
        choices = ("true", "false")
    elif isinstance(default, list) and choices:  # several of them, written out
        comment, choices = f"{comment}; of {', '.join(choices)}", ()
    return Setting(name, value_text(default), comment, choices)


@dataclasses.dataclass(frozen=True)
class Filled:
    """The page's own fields.

    Attributes:
        rewards: name → weight, of those that are chosen; one's own as "file.py:function".
        prompts, judged: one per line.
        stages: texts of coarse, mid and fine, a line of each for every prompt; () for plain prompts.
        boundaries: where stages meet, as fractions of the chain.
        advanced: setting → text.
    """

    checkpoint: str = EMBEDDED
    rewards: Mapping[str, float] = dataclasses.field(default_factory=lambda: {EMBEDDED: 1.0})
    judge: str = "auto"
    prompts: str = ""
    stages: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()
    judged: str = ""
    preset: str = "default"
    rank: int | None = None
    iterations: int | None = None
    seed: int | None = None
    name: str = ""
    advanced: Mapping[str, str] = dataclasses.field(default_factory=dict)


def compose(filled: Filled, rewards_folder: str) -> RunConfig:
    """The config of a run. Raises `RLRError` for what cannot be."""
    from rlr_core.trainer.composing import composed

    checkpoint = filled.checkpoint.strip() or EMBEDDED
    base = read_settings(DEMO) if checkpoint == EMBEDDED else {}
    tables = merged(
        base,
        chosen(filled, checkpoint),
        {"reward": _rewards(filled, checkpoint), "model": {"checkpoint": checkpoint}},
    )
    tables["reward"]["folder"] = rewards_folder
    config = composed(None, [tables, *_advanced(filled.advanced)], filled.preset).config
    _refuse_without_gradient(filled)
    return config


def chosen(filled: Filled, checkpoint: str) -> Tables:
    """What the page's own fields say."""
    numbers = {
        "lora": {"rank": filled.rank},
        "training": {"iterations": filled.iterations, "seed": filled.seed},
    }
    tables: Tables = {
        section: {key: value for key, value in table.items() if value is not None}
        for section, table in numbers.items()
    }
    tables["prompts"] = _prompts(filled, checkpoint)
    if filled.name.strip():
        tables["output"] = {"name": filled.name.strip()}
    return tables


def _prompts(filled: Filled, checkpoint: str) -> dict[str, Any]:
    train = staged(filled.stages) if filled.stages else lines_of(filled.prompts)
    if filled.stages and not train:
        raise PromptError(
            "a prompt per stage, and no prompt", "one in each box", "write some, or take the tick away"
        )
    if not train and checkpoint != EMBEDDED:
        raise PromptError(
            "no prompts", "what the pictures are to show, one prompt per line", "write some, or upload a file"
        )
    told: dict[str, Any] = {"train": train} if train else {}
    if filled.stages and filled.boundaries:
        told["boundaries"] = list(filled.boundaries)
    if judged := lines_of(filled.judged):
        told["held_out"] = judged
    return told


def staged(texts: tuple[str, ...]) -> list[str]:
    """Lines of a prompts file: "coarse: … | mid: … | fine: …"."""
    columns = [lines_of(text) for text in texts]
    counts = {len(column) for column in columns}
    if len(counts) > 1:
        told = ", ".join(f"{len(column)} {name}" for name, column in zip(STAGES, columns, strict=True))
        raise PromptError(
            f"prompts per stage: {told}",
            "as many lines in each box",
            "line 1 of all boxes is the first prompt",
        )
    rows = zip(*columns, strict=True)
    return [" | ".join(f"{name}: {text}" for name, text in zip(STAGES, row, strict=True)) for row in rows]


STAGES = ("coarse", "mid", "fine")


def in_boxes(text: str) -> tuple[str, ...]:
    """Prompts, one per line, as the boxes of the three stages have them; a plain one is in all of them."""
    rows = []
    for line in lines_of(text):
        prompts = parse_line(line).prompts
        rows.append(prompts if len(prompts) == len(STAGES) else (" ".join(prompts),) * len(STAGES))
    return tuple("\n".join(column) for column in zip(*rows, strict=True)) or ("",) * len(STAGES)


def out_of_boxes(texts: tuple[str, ...]) -> str:
    """The inverse of `in_boxes`."""
    prompts = map(parse_line, staged(texts))
    return "\n".join(
        each.prompts[0] if len(set(each.prompts)) == 1 else format_line(each) for each in prompts
    )


def is_blind(reward: str) -> bool:
    """Whether a reward has no gradient, as far as can be known without running it."""
    from rlr_core.rewards.from_file import says_differentiable

    own = reward.endswith(".py") or ".py:" in reward
    return reward in WITHOUT_GRADIENT or (own and not says_differentiable(reward))


def _refuse_without_gradient(filled: Filled) -> None:
    """Before a run is queued, and not when its turn has come."""
    blind = [name for name in filled.rewards if is_blind(name)]
    if blind and filled.preset not in BLACK_BOXES and not filled.advanced.get("estimator.name"):
        raise ConfigError(
            f"the reward {blind[0]}, which has no gradient, with the method {filled.preset}",
            "a method that needs none",
            f"choose the method {BLACK_BOXES[0]}",
        )


def _rewards(filled: Filled, checkpoint: str) -> dict[str, Any]:
    if not filled.rewards:
        raise ConfigError("no reward", "at least one to train towards", "choose one")
    if checkpoint != EMBEDDED and EMBEDDED in filled.rewards:
        raise ConfigError(
            "the embedded reward", "one for this checkpoint: it knows drawn shapes alone", "choose another"
        )
    told: dict[str, Any] = {"held_out": filled.judge or "auto"}
    if len(filled.rewards) == 1:
        return {**told, "name": next(iter(filled.rewards))}
    return {**told, "name": "mix", "mix": dict(filled.rewards)}


def _advanced(texts: Mapping[str, str]) -> list[Tables]:
    return [parse_override(f"{name}={text}") for name, text in texts.items() if text.strip()]


def filled_by(config: RunConfig) -> Filled:
    """The page as it would have made a config: of a run that is cloned, or a file that is loaded."""
    reward, prompts = config.reward, config.prompts
    checkpoint = config.model.checkpoint
    base = from_dict(
        merged(read_settings(DEMO) if checkpoint == EMBEDDED else {}, {"model": {"checkpoint": checkpoint}})
    )
    advanced = {each.name: _text(each.now) for each in changes(base, config) if each.name not in SIMPLE}
    return Filled(
        checkpoint=checkpoint,
        rewards=dict(reward.mix) if reward.name == "mix" else {reward.name: 1.0},
        judge=reward.held_out,
        prompts="\n".join(prompts.train),
        judged="\n".join(prompts.held_out),
        boundaries=tuple(prompts.boundaries),
        preset="default",
        rank=config.lora.rank,
        iterations=config.training.iterations,
        seed=config.training.seed,
        name=config.output.name,
        advanced=advanced,
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else value_text(value)
