"""The held-out scorer: a convolutional classifier that tells each attribute of a picture.

Its architecture, its data and its objective have nothing in common with the reward's, and nothing is ever trained on it:
what pleases the reward alone does not please it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rlr_core.embedded import world

WIDTHS = (24, 48, 96, 128)
"""Channels of the four stages, each at half the resolution of the one before."""


class HeldOutScorer(nn.Module):
    """Pictures → the probability of each word, for each attribute of the world.

    Args:
        words: the words that each attribute can be.
        widths: channels of the stages.
    """

    def __init__(self, words: dict[str, tuple[str, ...]], widths: Sequence[int] = WIDTHS):
        super().__init__()
        self.words, self.widths = words, list(widths)
        self.stages = nn.Sequential(*map(_stage, (3, *widths[:-1]), widths))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(widths[-1] * 16, len(known)) for name, known in words.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, 64, 64) in [0, 1] → attribute: logits (B, number of its words)."""
        features = self.stages(images * 2 - 1).flatten(1)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The probability (B,) that each picture (B, 3, 64, 64) shows everything its prompt names.

        Attributes are taken as independent; those that a prompt does not name do not count. Raises `PromptError`.
        """
        logits = self(nn.functional.interpolate(images, (world.SIZE, world.SIZE), mode="area"))
        total = torch.zeros(len(images), device=images.device)
        for row, prompt in enumerate(prompts):
            for name, word in world.asked(prompt).items():
                total[row] += logits[name][row].log_softmax(0)[self.words[name].index(word)]
        return total.exp()


def _stage(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
    )


def save_scorer(scorer: HeldOutScorer, folder: Path) -> None:
    """`config.json`, and half-precision `model.safetensors`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {"words": scorer.words, "widths": scorer.widths}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(
        {name: value.half() for name, value in scorer.state_dict().items()}, folder / "model.safetensors"
    )


def load_scorer(folder: Path) -> HeldOutScorer:
    """The scorer in evaluation mode. Raises `OSError` for files that cannot be read."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    words = {name: tuple(known) for name, known in config["words"].items()}
    scorer = HeldOutScorer(words, config["widths"])
    scorer.load_state_dict(load_file(folder / "model.safetensors"))
    return scorer.eval().requires_grad_(False)
