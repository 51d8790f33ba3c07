"""Where the nodes keep things in ComfyUI's folders."""

from __future__ import annotations

from pathlib import Path

from .host import lora_folders, models_folder, output_folder

RUNS = "rlr"
"""Of ComfyUI's output folder."""


def runs() -> Path:
    """A folder for each run."""
    return Path(output_folder()) / RUNS


def weights() -> Path:
    """Weights of published rewards."""
    return Path(models_folder) / "rewards"


def own_rewards() -> Path:
    """Python files with rewards. Among the models, since ComfyUI's server lets nobody upload anything there."""
    return Path(models_folder) / "rewards" / "own"


def loras() -> Path:
    """Where `Load LoRA` looks first."""
    return Path(lora_folders()[0])
