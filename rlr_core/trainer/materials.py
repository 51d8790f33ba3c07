"""What a run is made of, as objects: what a config names, or what a caller brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from rlr_core.config import ModelConfig, RewardConfig, RunConfig
from rlr_core.lora import Lora
from rlr_core.models import Model, load_configured
from rlr_core.rewards import Reward, load_mix, load_reward
from rlr_core.trainer.seeding import seeded


@dataclass(frozen=True)
class Rewards:
    """Who judges a run.

    Attributes:
        trained: what the LoRA is trained towards.
        held_out: scores evaluations; it is never trained on, unless it is the trained reward itself, for want of another.
        watched: more that score them, by name.
    """

    trained: Reward
    held_out: Reward
    watched: Mapping[str, Reward] = field(default_factory=dict)


@dataclass(frozen=True)
class Materials:
    """What a run is made of, where a caller brings it and it is not what the config names.

    What is brought stays the caller's: it is not ejected or moved when the run is over.

    Attributes:
        model: a model object, of a host or of one's own.
        lora: in that model already.
        rewards: that judge the run.
        load: makes the model of a config's section on a device; it is called again where memory is short.
    """

    model: Model | None = None
    lora: Lora | None = None
    rewards: Rewards | None = None
    load: Callable[[ModelConfig, torch.device], Model] = load_configured

    @property
    def by_config(self) -> bool:
        """Whether the model is what a config says, so that it can be planned, and loaded again with other settings."""
        return self.model is None and self.load is load_configured

    def named(self, config: RunConfig) -> RunConfig:
        """The config with the names of the objects that are brought, for people to read."""
        if self.model:
            config = replace(config, model=replace(config.model, checkpoint=self.model.name))
        if self.rewards:
            trained, held_out = self.rewards.trained.name, self.rewards.held_out.name
            named = replace(config.reward, name=trained, held_out=held_out, watch=list(self.rewards.watched))
            config = replace(config, reward=named)
        return config


def load_rewards(config: RewardConfig, device: torch.device) -> Rewards:
    """The rewards that a config names. Raises `RewardError`."""
    with seeded(0):  # a user's file may draw random numbers, or seed them, when it is loaded
        mixed = config.name == "mix"
        trained = load_mix(config, device) if mixed else load_reward(config.name, device, config)
        same = config.held_out == config.name
        held_out = trained if same else load_reward(config.held_out, device, config)
        watched = {name: load_reward(name, device, config) for name in config.watch}
    return Rewards(trained, held_out, watched)
