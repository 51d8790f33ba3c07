"""The node that trains: MODEL, CLIP and VAE in, the MODEL with its LoRA and the LoRA out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from rlr_core.config import RunConfig, from_dict
from rlr_core.dcot.texts import numbered_lines
from rlr_core.errors import PromptError
from rlr_core.estimators import ESTIMATORS
from rlr_core.rewards.library import PUBLISHED, REWARDS
from rlr_core.trainer import Iteration

from .host import SCHEDULER_NAMES, output_folder, progress_bar, raise_if_interrupted, with_lora
from .training import Given, train

JUDGES = [*PUBLISHED, *(name for name in REWARDS if not name.startswith("embedded"))]
"""Rewards for any picture; those of the embedded world know nothing else."""
NUMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "iterations": ("INT", {"default": 100, "min": 1, "max": 100_000, "tooltip": "Steps of the optimizer."}),
    "batch_size": ("INT", {"default": 4, "min": 1, "max": 1000, "tooltip": "Pictures of an iteration."}),
    "learning_rate": ("FLOAT", {"default": 5e-4, "min": 0.0, "max": 1.0, "step": 1e-5, "tooltip": "Of Adam."}),
    "rank": ("INT", {"default": 8, "min": 1, "max": 4096, "tooltip": "Of the LoRA."}),
    "steps": ("INT", {"default": 20, "min": 1, "max": 1000, "tooltip": "Denoising steps of a picture."}),
    "cfg": ("FLOAT", {"default": 7.0, "min": 0.0, "max": 100.0, "tooltip": "Guidance scale, as in KSampler."}),
    "width": ("INT", {"default": 512, "min": 8, "max": 8192, "step": 8, "tooltip": "Of the pictures, in pixels."}),
    "height": ("INT", {"default": 512, "min": 8, "max": 8192, "step": 8, "tooltip": "Of the pictures, in pixels."}),
    "held_out_pairs": ("INT", {"default": 16, "min": 0, "max": 10_000, "tooltip": "Pictures scored before and after."}),
    "seed": ("INT", {"default": 0, "min": 0, "max": 2**32 - 1, "tooltip": "The same seed gives the same LoRA."}),
}  # fmt: skip


class RLRTrain:
    """Trains a LoRA towards a reward, on the network that is wired to it."""

    CATEGORY, FUNCTION = "training/RLR", "train"
    RETURN_TYPES, RETURN_NAMES = ("MODEL", "LORA_MODEL", "STRING"), ("model", "lora", "run_folder")
    OUTPUT_TOOLTIPS = (
        "The MODEL with the LoRA.",
        "For Save LoRA Weights.",
        "Where the run with its report is.",
    )
    DESCRIPTION = "Trains a LoRA for Stable Diffusion 1.x, 2.x or XL towards a reward. Cancel keeps the run's checkpoint."
    EXPERIMENTAL = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        """What ComfyUI draws."""
        text = {"multiline": True, "default": ""}
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "What is trained; LoRAs that are on it already stay below."}),
                "clip": ("CLIP", {"tooltip": "Encodes the prompts; it is not trained."}),
                "vae": ("VAE", {"tooltip": "Decodes the pictures that are scored."}),
                "prompts": ("STRING", {**text, "tooltip": "One training prompt on each line."}),
                "negative": ("STRING", {**text, "tooltip": "The negative prompt of all pictures."}),
                "reward": (
                    JUDGES,
                    {"tooltip": "What scores the pictures; published ones need their weights."},
                ),
                "estimator": (list(ESTIMATORS), {"default": "lookahead", "tooltip": "Of the gradient."}),
                "scheduler": (SCHEDULER_NAMES, {"default": "normal", "tooltip": "How the noise levels lie."}),
                **NUMBERS,
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def train(
        self, model: Any, clip: Any, vae: Any, unique_id: str = "", **inputs: Any
    ) -> tuple[Any, Any, str]:
        """A run in a folder of its own. Raises `RLRError`, or what ComfyUI raises on Cancel."""
        config, folder = config_of(inputs), new_folder(Path(output_folder()) / "rlr")
        listen = telling(progress_bar(config.training.iterations, unique_id))
        done = train(Given(model, clip, vae), config, folder, listen, inputs["scheduler"])
        raise_if_interrupted()
        lora = load_file(done.folder / f"{config.output.name}.safetensors")
        return with_lora(model, None, lora, 1.0, 0.0)[0], lora, str(done.folder)


def config_of(inputs: dict[str, Any]) -> RunConfig:
    """What the inputs say. Prompts are ComfyUI's, whose weights, as (word:1.2), its own CLIP reads."""
    lines = [line for _, line in numbered_lines(inputs["prompts"])]
    if not lines:
        raise PromptError("no prompts", "one on each line", "write what the pictures are to show")
    batch = inputs["batch_size"]
    return from_dict(
        {
            "prompts": {"train": lines, "negative": inputs["negative"], "syntax": "literal"},
            "sampling": {
                "steps": inputs["steps"],
                "guidance_scale": inputs["cfg"],
                "size": [inputs["width"], inputs["height"]],
            },
            "lora": {"rank": inputs["rank"], "alpha": float(inputs["rank"])},
            "reward": {"name": inputs["reward"], "download": False},
            "estimator": {"name": inputs["estimator"]},
            "training": {
                "iterations": inputs["iterations"],
                "batch_size": batch,
                "prompts_per_batch": batch,
                "learning_rate": inputs["learning_rate"],
                "seed": inputs["seed"],
            },
            "output": {"evaluation": inputs["held_out_pairs"], "preview_every": 0},
        },
        "the node",
    )


def new_folder(parent: Path) -> Path:
    """The first numbered one that is not there: runs are never written over."""
    return next(folder for n in count(1) if not (folder := parent / f"run-{n:04}").exists())


def telling(bar: Any) -> Callable[[Any], None]:
    """A listener that moves the node's progress bar."""

    def listen(event: Any) -> None:
        if isinstance(event, Iteration):
            bar.update_absolute(event.iteration)

    return listen
