"""What is made of a run: its curve, its pictures before and after, its LoRA where ComfyUI finds it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from rlr_core.errors import RunError
from rlr_core.runs import RunDirectory
from rlr_core.runs.summary import Summary

from .curve_picture import curve_picture
from .folders import loras
from .host import numbered_place
from .pictures import as_image
from .snapshot import curves, lora_file
from .sockets import CATEGORY, RUN, Inputs, socket, text

RUN_INPUT = socket(RUN, "The run of RLR: train.")


def found(run: str) -> RunDirectory:
    """ComfyUI keeps what a node gave, and with that the name of a folder that may be gone. Raises `RunError`."""
    folder = Path(run)
    if not folder.is_dir():
        raise RunError(
            f"no run {folder.name!r} in {folder.parent}",
            "the folder that RLR: train wrote",
            "it was renamed or deleted: give it its name back, or restart ComfyUI and queue again",
        )
    return RunDirectory(folder)


class Curve:
    """The reward of a run as a picture."""

    CATEGORY, FUNCTION = CATEGORY, "drawn"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("curve",)
    OUTPUT_TOOLTIPS = ("A picture, for Preview Image or Save Image.",)
    DESCRIPTION = (
        "The reward that is trained on (running mean of the batches), the held-out score and the parts of a mix, each with its"
        " 95% band and on its own scale."
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """A run, and the picture's size."""
        side = {"min": 200, "max": 4096, "step": 8}
        return {
            "required": {
                "run": RUN_INPUT,
                "width": ("INT", {**side, "default": 800, "tooltip": "Of the picture, in pixels."}),
                "height": ("INT", {**side, "default": 400, "tooltip": "Of the picture, in pixels."}),
            }
        }

    def drawn(self, run: str, width: int, height: int) -> tuple[Any]:
        """IMAGE (1, height, width, 3)."""
        summary = Summary.read(found(run).events_file)
        return (as_image([curve_picture(curves(summary), width, height)]),)


class BeforeAfter:
    """The same prompts and seeds before and after training."""

    CATEGORY, FUNCTION = CATEGORY, "shown"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "IMAGE", "IMAGE"), ("both", "before", "after")
    OUTPUT_TOOLTIPS = (
        "One above the other, with the prompts.",
        "A strip of pictures.",
        "A strip of pictures.",
    )
    DESCRIPTION = "Held-out prompts and seeds, painted before and after training."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """A run."""
        return {"required": {"run": RUN_INPUT}}

    def shown(self, run: str) -> tuple[Any, Any, Any]:
        """IMAGE (1, H, W, 3) each. Raises `RunError` for a run that judged nothing."""
        folder = found(run).folder
        both, before, after = (_read(folder / f"{name}.png") for name in ("before_after", "before", "after"))
        return both, before, after


def _read(file: Path) -> Any:
    if not file.is_file():
        raise RunError(
            f"the run {file.parent.name} painted nothing before and after",
            "a finished run with held_out_pairs above 0",
            "raise held_out_pairs of RLR: train",
        )
    with Image.open(file) as picture:
        return as_image([picture])


class SaveLora:
    """The LoRA of a run as a file that LoRA loaders list."""

    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "saved", True
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("lora_name",)
    OUTPUT_TOOLTIPS = ("As Load LoRA lists it after a refresh (R).",)
    DESCRIPTION = "Saves a run's LoRA, with all that the file says of itself, into models/loras. Nothing is written over."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """A run, a name, and which LoRA of it."""
        told = "The LoRA of the end, or the best on the way by held-out score."
        return {
            "required": {
                "run": RUN_INPUT,
                "filename_prefix": text(
                    "Name of the file in models/loras; a number is added.",
                    lines=False,
                    default="rlr/rlr-lora",
                ),
                "which": (["last", "best"], {"default": "last", "tooltip": told}),
            }
        }

    def saved(self, run: str, filename_prefix: str, which: str) -> dict[str, Any]:
        """A copy. Raises `RunError` where there is none."""
        directory = found(run)
        source = lora_file(directory, best=which == "best") or lora_file(directory)
        if source is None:
            raise RunError(f"no LoRA in {run}", "a run that has learned", "train first")
        folder, stem, number, _, _ = numbered_place(filename_prefix, str(loras()))
        target = Path(folder) / f"{stem}_{number:05}_.safetensors"
        shutil.copyfile(source, target)
        name = str(target.relative_to(loras()))
        return {"ui": {"text": [name]}, "result": (name,)}


NODES: dict[str, type] = {"RLRRewardCurve": Curve, "RLRBeforeAfter": BeforeAfter, "RLRSaveLora": SaveLora}
