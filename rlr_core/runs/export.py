"""The trained LoRA: the file, what it says of its training, and the card that A1111 and Forge show."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from rlr_core import __version__
from rlr_core.config import RunConfig, to_toml
from rlr_core.dcot import format_line
from rlr_core.lora import LoraWeights, write_lora
from rlr_core.runs.overview import Facts
from rlr_core.runs.summary import Comparison
from rlr_core.storage import write_text
from rlr_core.trainer import Setup

MOST_PROMPTS = 200


def export(file: Path, setup: Setup, weights: LoraWeights, iteration: int, achieved: Facts) -> None:
    """Write a LoRA of the run that `setup` is of, as it was after `iteration`.

    Raises `CheckpointError` for a LoRA that is not finite or has no effect; the run's checkpoints stay.
    """
    output, family = setup.config.output, setup.lora.family
    facts = {
        **setup.model.lora_metadata(),
        "ss_output_name": file.stem,
        "rlr.iterations": str(iteration),
        **_facts(setup.config, setup.reward.name, setup.held_out.name, list(map(format_line, setup.prompts))),
        **_achieved(achieved),
    }
    dtype = getattr(torch, output.precision)
    write_lora(file, weights, facts, kind=output.format, family=family, dtype=dtype)


def write_card(file: Path, setup: Setup, achieved: Facts) -> None:
    """Write `<stem>.json` beside the LoRA `file`: what hosts show of it."""
    card = {
        "description": card_text(setup.reward.name, achieved),
        "sd version": setup.lora.family.card,
        "activation text": "",
        "preferred weight": 1.0,
        "negative text": "",
        "notes": f"Trained with RLR {__version__}, estimator {setup.config.estimator.name}.",
    }
    write_text(file.with_suffix(".json"), json.dumps(card, ensure_ascii=False, indent=2) + "\n")


def _facts(config: RunConfig, reward: str, held_out: str, prompts: list[str]) -> dict[str, str]:
    return {
        "rlr.version": __version__,
        "rlr.estimator": config.estimator.name,
        "rlr.reward": reward,
        "rlr.held_out_reward": held_out,
        "rlr.prompts": json.dumps(prompts[:MOST_PROMPTS], ensure_ascii=False),
        "rlr.ema": f"{config.training.ema:g}",
        "rlr.config_sha256": hashlib.sha256(to_toml(config, comments=False).encode()).hexdigest(),
    }


def _achieved(achieved: Facts) -> dict[str, str]:
    """Mean scores before and after, and half the width of the 95% confidence interval of their difference."""
    facts = {}
    for name, comparison in (("reward", achieved.trained), ("held_out", achieved.held_out)):
        if comparison:
            facts[f"rlr.{name}_before"] = f"{comparison.before:.5g}"
            facts[f"rlr.{name}_after"] = f"{comparison.after:.5g}"
            facts[f"rlr.{name}_difference_95"] = f"{comparison.half_width:.5g}"
    return facts


def card_text(reward: str, achieved: Facts) -> str:
    """For people who see the file in a host."""
    gained = _told("held-out score", achieved.held_out) + _told("reward", achieved.trained)
    return f"Trained towards the reward '{reward}'{gained}."


def _told(name: str, comparison: Comparison | None) -> str:
    return f"; {name} {comparison.before:.3f} → {comparison.after:.3f}" if comparison else ""
