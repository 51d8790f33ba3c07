"""The trained LoRA: the file, what it says of its training, and the card that A1111 and Forge show."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from rlr_core import __version__
from rlr_core.config import Judged, RewardConfig, RunConfig, to_toml
from rlr_core.dcot import format_line
from rlr_core.families import LoraFamily
from rlr_core.lora import LoraWeights, write_lora
from rlr_core.runs.overview import Facts
from rlr_core.runs.summary import Comparison, short
from rlr_core.storage import write_text
from rlr_core.trainer import Setup

MOST_PROMPTS = 200


@dataclass(frozen=True)
class Origin:
    """Where a LoRA comes from, as its file tells it.

    Attributes:
        config: of the run.
        family: of the model that it is for.
        model: the metadata that say which model that is.
        reward, held_out: names.
        prompts: that were trained on, as lines.
    """

    config: RunConfig
    family: LoraFamily
    model: Mapping[str, str]
    reward: str
    held_out: str
    prompts: list[str]

    @classmethod
    def of(cls, setup: Setup) -> Origin:
        """Of a run that is loaded."""
        return cls(
            config=setup.config,
            family=setup.lora.family,
            model=setup.model.lora_metadata(),
            reward=reward_name(setup.config.reward),
            held_out=short(setup.held_out.name),
            prompts=list(map(format_line, setup.prompts)),
        )


def reward_name(reward: RewardConfig) -> str:
    """As a LoRA's file names it for others: a file of one's own without its folder."""
    parts = " + ".join(f"{weight:g} {short(part)}" for part, weight in reward.mix.items())
    return f"mix: {parts}" if reward.name == "mix" else short(reward.name)


def numbered(lora: Path, iteration: int) -> Path:
    """Where a run keeps its LoRA of one iteration: beside the one called `lora`."""
    return lora.with_name(f"{lora.stem}-{iteration:06d}{lora.suffix}")


def export(file: Path, origin: Origin, weights: LoraWeights, iteration: int, achieved: Facts) -> None:
    """Write a LoRA of a run, as it was after `iteration`.

    Raises `CheckpointError` for a LoRA that is not finite or has no effect; the run's checkpoints stay.
    """
    output, family = origin.config.output, origin.family
    facts = {
        **origin.model,
        "ss_output_name": file.stem,
        "rlr.iterations": str(iteration),
        **_facts(origin.config, origin.reward, origin.prompts),
        f"rlr.{_judge(origin.config)}_reward": origin.held_out,
        **_achieved(achieved, _judge(origin.config)),
    }
    dtype = getattr(torch, output.precision)
    kind = family.formats[0] if output.format == "auto" else output.format
    write_lora(file, weights, facts, kind=kind, family=family, dtype=dtype)


def write_card(file: Path, origin: Origin, achieved: Facts) -> None:
    """Write `<stem>.json` beside the LoRA `file`: what hosts show of it."""
    card = {
        "description": card_text(origin.reward, achieved, Judged.of(origin.config)) + _only(origin.config),
        "sd version": origin.family.card,
        "activation text": "",
        "preferred weight": 1.0,
        "negative text": "",
        "notes": f"Trained with RLR {__version__}, estimator {origin.config.estimator.name}.",
    }
    write_text(file.with_suffix(".json"), json.dumps(card, ensure_ascii=False, indent=2) + "\n")


def _judge(config: RunConfig) -> str:
    """What the metadata call the reward that judged: no other name than it deserves."""
    return "held_out" if Judged.of(config).held_out else "judge"


def _facts(config: RunConfig, reward: str, prompts: list[str]) -> dict[str, str]:
    return {
        "rlr.version": __version__,
        "rlr.estimator": config.estimator.name,
        "rlr.reward": reward,
        "rlr.prompts": json.dumps(prompts[:MOST_PROMPTS], ensure_ascii=False),
        "rlr.ema": f"{config.training.ema:g}",
        "rlr.config_sha256": hashlib.sha256(to_toml(config, comments=False).encode()).hexdigest(),
    }


def _achieved(achieved: Facts, judge: str) -> dict[str, str]:
    """Mean scores before and after, and half the width of the 95% confidence interval of their difference."""
    facts = {}
    for name, comparison in (("reward", achieved.trained), (judge, achieved.held_out)):
        if comparison:
            facts[f"rlr.{name}_before"] = f"{comparison.before:.5g}"
            facts[f"rlr.{name}_after"] = f"{comparison.after:.5g}"
            facts[f"rlr.{name}_difference_95"] = f"{comparison.half_width:.5g}"
    return facts


def card_text(reward: str, achieved: Facts, judged: Judged) -> str:
    """For people who see the file in a host."""
    gained = _told(judged.score, achieved.held_out) + _told("reward", achieved.trained)
    return f"Trained towards the reward '{reward}'{gained}."


def _only(config: RunConfig) -> str:
    """For whom the file is, where no host has the checkpoint."""
    return " Only for RLR's built-in demo checkpoint." if config.model.checkpoint == "embedded" else ""


def _told(name: str, comparison: Comparison | None) -> str:
    return f"; {name} {comparison.before:.3f} → {comparison.after:.3f}" if comparison else ""
