"""Scores of pictures by a reward."""

from __future__ import annotations

from typing import Any

import torch

from rlr_core.config import RewardConfig, Tables
from rlr_core.dcot.texts import numbered_lines
from rlr_core.errors import PromptError
from rlr_core.rewards import load_reward
from rlr_core.trainer.sampling import score

from .host import device
from .pictures import as_batch
from .rewards import parts
from .sockets import CATEGORY, REWARD, Inputs, socket, text


class Score:
    """What a reward says of pictures."""

    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "scored", True
    RETURN_TYPES, RETURN_NAMES = ("FLOAT", "STRING"), ("mean", "scores")
    OUTPUT_TOOLTIPS = (
        "Of all pictures; of several rewards their weighted sum, each as it is.",
        "One line for each picture.",
    )
    DESCRIPTION = "Scores pictures by a reward; several each by itself, since they have a common scale in training alone."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Pictures, a reward, and what they were to show."""
        told = "What the pictures were to show: one line for all, or one for each."
        return {
            "required": {
                "images": socket("IMAGE", "The pictures."),
                "reward": socket(REWARD, "What scores them."),
                "prompts": text(told),
            }
        }

    def scored(self, images: Any, reward: Tables, prompts: str) -> dict[str, Any]:
        """Mean and lines. Raises `RLRError`."""
        pictures, said = as_batch(images), _said(prompts, len(images))
        settings = RewardConfig(**reward["reward"])
        made = {name: load_reward(name, device(), settings) for name in parts(reward)}
        with torch.inference_mode(False):
            found = {name: score(each, pictures.clone(), said).total for name, each in made.items()}
        lines = [
            _line(number, {k: float(v[number]) for k, v in found.items()}) for number in range(len(images))
        ]
        told = "\n".join(lines)
        mean = sum(weight * float(found[name].mean()) for name, weight in parts(reward).items())
        return {"ui": {"text": [told]}, "result": (mean, told)}


def _said(prompts: str, count: int) -> list[str]:
    lines = [line for _, line in numbered_lines(prompts)]
    if len(lines) not in (1, count):
        raise PromptError(
            f"{len(lines)} prompts for {count} pictures", "one line, or one for each picture", "correct them"
        )
    return lines * count if len(lines) == 1 else lines


def _line(number: int, scores: dict[str, float]) -> str:
    return f"{number + 1}: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


NODES: dict[str, type] = {"RLRScore": Score}
