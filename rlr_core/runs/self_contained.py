"""A config that means the same wherever it is read: prompts files read, paths made absolute."""

from __future__ import annotations

import dataclasses
import os

from rlr_core.config import ModelConfig, RewardConfig, RunConfig
from rlr_core.trainer.deciding import decided


def self_contained(config: RunConfig, *, keep_model: bool = False) -> RunConfig:
    """The config with all decided (see `decided`), and paths made absolute. Raises `PromptError`.

    Args:
        keep_model: the checkpoint's name is none of a file.
    """
    config = decided(config)
    start = _absolute(config.lora.start) if config.lora.start else ""
    return dataclasses.replace(
        config,
        model=config.model if keep_model else _absolute_model(config.model),
        lora=dataclasses.replace(config.lora, start=start),
        reward=_absolute_rewards(config.reward),
    )


def _absolute_model(config: ModelConfig) -> ModelConfig:
    checkpoint, vae = config.checkpoint, config.vae
    return dataclasses.replace(
        config,
        checkpoint=checkpoint if checkpoint == "embedded" else _absolute(checkpoint),
        vae=_absolute(vae) if vae else "",
    )


def _absolute_rewards(config: RewardConfig) -> RewardConfig:
    tables = {
        key: {_absolute_reward(name): number for name, number in getattr(config, key).items()}
        for key in ("mix", "mix_mean", "mix_spread")
    }
    return dataclasses.replace(
        config,
        name=_absolute_reward(config.name),
        held_out=_absolute_reward(config.held_out),
        watch=[_absolute_reward(name) for name in config.watch],
        folder=_absolute(config.folder),
        **tables,
    )


def _absolute_reward(name: str) -> str:
    """The path in "file.py:function", or of a file alone, becomes absolute; a name stays."""
    path, colon, function = name.rpartition(":")
    if name.endswith(".py"):
        return _absolute(name)
    return f"{_absolute(path)}:{function}" if colon and path.endswith(".py") else name


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))
