"""How the beds' files come about, where they lie, and what they become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import rlr_core
from rlr_core.bench.beds.drawn import World
from rlr_core.bench.beds.judges import Judge, load_judge, train_judge
from rlr_core.config import ModelConfig
from rlr_core.errors import CheckpointError
from rlr_core.models import Model
from rlr_core.rewards.reward import FunctionReward

FOLDER = Path(rlr_core.__file__).parents[1] / "docs" / "evidence" / "beds"
"""A folder for each bed, in a clone of the repository; they are not installed."""
CHECKPOINT, REWARD, SCORER = "checkpoint", "reward.safetensors", "scorer.safetensors"
JUDGE_STEPS = 3_000


@dataclass(frozen=True)
class Made:
    """A bed that is trained from nothing.

    Attributes:
        world: its pictures and captions.
        train: the checkpoint, into a folder.
        load: that folder as a model, as the section of a config and a device say.
        reward: the architecture of the reward, a key of `judges.BODIES`.
        form: what of the judge is the reward, "everything", "share" or "evidence".
        scorer: the architecture of the held-out scorer, which says how likely a picture shows everything that is asked for.
        seed: of the judges' data and weights.
    """

    world: World
    train: Callable[[Path], None]
    load: Callable[[Path, ModelConfig, torch.device], Model]
    reward: str
    form: str
    scorer: str
    seed: int

    def files(self, name: str) -> Files:
        """Those of the bed of that name. Raises `CheckpointError` where they are not there."""
        folder = FOLDER / name
        for part in (CHECKPOINT, REWARD, SCORER):
            if not (folder / part).exists():
                raise CheckpointError(
                    f"the bed '{name}' has no {folder / part}",
                    "its files, which are in a clone of the repository and not installed",
                    f"rlr bench beds --train {name}",
                )
        return Files(self, name, folder)

    def train_all(self, folder: Path) -> None:
        """Checkpoint, reward and scorer, on one thread."""
        torch.set_num_threads(1)
        self.train_judges(folder)
        self.train(folder / CHECKPOINT)

    def train_judges(self, folder: Path, steps: int = JUDGE_STEPS) -> None:
        """Reward and scorer, on other data."""
        train_judge(self.reward, self.world, self.seed, steps, folder / REWARD)
        train_judge(self.scorer, self.world, self.seed + 1, steps, folder / SCORER)


@dataclass(frozen=True)
class Files:
    """The files of a bed, which are there."""

    made: Made
    name: str
    folder: Path

    def load(self, settings: ModelConfig, device: torch.device) -> Model:
        """The frozen model."""
        return self.made.load(self.folder / CHECKPOINT, settings, device)

    def reward(self, device: torch.device) -> FunctionReward:
        """Differentiable."""
        judge = self._judge(self.made.reward, REWARD, device)
        return FunctionReward(self.name, True, getattr(judge, self.made.form), networks=(judge,))

    def held_out(self) -> FunctionReward:
        """Only watches, and therefore gives no gradient; on the CPU, where the pictures come to it."""
        judge = self._judge(self.made.scorer, SCORER, torch.device("cpu"))
        return FunctionReward(f"{self.name}-held-out", False, judge.everything, networks=(judge,))

    def _judge(self, body: str, file: str, device: torch.device) -> Judge:
        return load_judge(body, self.made.world, self.folder / file, device)


def load_pipeline(folder: Path, settings: ModelConfig, device: torch.device) -> Any:
    """A folder in diffusers' layout, as `rlr train` loads it. Raises `CheckpointError`."""
    from rlr_core.models import load_configured

    return load_configured(replace(settings, checkpoint=str(folder)), device)
