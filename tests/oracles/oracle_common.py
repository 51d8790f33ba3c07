"""What the oracles share. They run in environments of their own, where RLR is not installed."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

PICTURES = ("square", "wide", "tall")
PROMPT = "a red cat, sitting"


def folder() -> Path:
    """The job's folder, with square.png, wide.png and tall.png in it."""
    return Path(sys.argv[1])


def pictures() -> dict[str, Image.Image]:
    return {name: Image.open(folder() / f"{name}.png") for name in PICTURES}


def as_tensor(picture: Image.Image) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1], with a gradient."""
    values = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    image = values.reshape(picture.height, picture.width, 3).permute(2, 0, 1)[None].float() / 255
    return image.requires_grad_()


def fill(named: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Random weights through which signals pass."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in named:
        if not tensor.is_floating_point():
            continue
        values = torch.randn(tensor.shape, generator=generator)
        if name.endswith("logit_scale"):
            values = torch.tensor(math.log(100.0))
        elif tensor.dim() == 1:
            values = 0.1 * values + (1.0 if name.endswith(".weight") else 0.0)
        else:
            values = values / math.sqrt(tensor.shape[-1])
        tensor.data.copy_(values)


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def answer(**answers: Any) -> None:
    torch.save(answers, folder() / "answers.pt")
