"""What a study is done on: a checkpoint with its reward, its held-out scorer and its prompts."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rlr_core.bench.beds.making import Made
from rlr_core.config import RewardConfig, RunConfig, Tables, from_dict, merged, read_settings, to_dict
from rlr_core.embedded import DEMO
from rlr_core.rewards import load_reward
from rlr_core.trainer import Materials
from rlr_core.trainer.deciding import decided
from rlr_core.trainer.materials import Rewards

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

JUDGED = {"reward": {"held_out": "embedded-held-out"}}
"""Who scores on the embedded bed: what is left to a run might be decided otherwise where other rewards are installed."""
OF_BEDS = ("model", "prompts", "sampling", "reward", "lora")
"""Sections of a user's config that make a bed; the others say how is trained, which is the methods' affair."""


@dataclass(frozen=True)
class Bed:
    """One of them.

    Attributes:
        name: short, as "count".
        summary: what it is, for people.
        settings: of a run on it, which methods' settings go on top of.
        made: what its files are and how they come about; None where its settings name all that there is.
    """

    name: str
    summary: str
    settings: Tables
    made: Made | None = None

    def job(self, study: str, config: RunConfig) -> dict[str, Any]:
        """What defines a job of a study; results from before there were other beds are found again."""
        return {"study": study, **({"bed": self.name} if self.made else {}), "config": to_dict(config)}

    def completed(self, config: RunConfig) -> RunConfig:
        """The config with the bed's prompts."""
        if not self.made:
            return config
        train, held_out = self.made.world.prompts()
        return replace(config, prompts=replace(config.prompts, train=train, held_out=held_out))

    def materials(self, device: torch.device, reward: RewardConfig) -> Materials:
        """What its settings do not name; a method may have named another reward than the bed's own.

        Raises `CheckpointError` where its files are not there, `RewardError`.
        """
        if not self.made:
            return Materials()
        files = self.made.files(self.name)
        own = reward.name == self.name
        trained = files.reward(device) if own else load_reward(reward.name, device, reward)
        return Materials(
            rewards=Rewards(trained, files.held_out()),
            load=lambda model, on: files.load(model, on),
        )


def made_bed(name: str, summary: str, made: Made, *, steps: int, guidance: float) -> Bed:
    """A bed that the project trains itself; T = `steps`."""
    settings = {
        "model": {"checkpoint": name},
        "reward": {"name": name, "held_out": f"{name}-held-out"},
        "sampling": {"steps": steps, "guidance_scale": guidance},
    }
    return Bed(name, summary, settings, made)


EMBEDDED = Bed(
    "embedded",
    "v-predicting UNet on latents of 64 pixels; weakness: colours",
    merged(tomllib.loads(DEMO.read_text(encoding="utf-8")), JUDGED),
)


def own_bed(file: Path) -> Bed:
    """A user's checkpoint, reward and prompts, of a config as `rlr train` reads it. Raises `RLRError`."""
    config = to_dict(decided(from_dict(read_settings(file), str(file))))
    return Bed(str(file), "", {name: config[name] for name in OF_BEDS})
