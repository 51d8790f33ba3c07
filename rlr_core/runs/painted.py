"""What a picture's file says of how it was painted, so that A1111, Forge, Civitai and ComfyUI read it.

A1111 reads one text, "parameters": the prompt, then a line "Negative prompt: …", then "Steps: …, Sampler: …, …", its values in
quotes where they have a comma or a colon (modules/infotext_utils.py, modules/processing.py). ComfyUI reads "prompt", a graph of
its nodes as JSON (`comfyui_graph.py`). Prompts by stage are prompt editing for the one, ranges of conditionings for the other.

Both name the picture's settings; neither program draws the same random numbers, so its picture is another of the same kind.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlr_core import __version__
from rlr_core.chain import Schedule
from rlr_core.config import RunConfig
from rlr_core.dcot import StagePrompts, StageSettings
from rlr_core.dcot.hosts import escaped, prompt_editing
from rlr_core.embedded import CHECKPOINT
from rlr_core.runs.hashes import checkpoint_hash, lora_hash
from rlr_core.storage import user_path

SAMPLERS = {
    "ddim": ("DDIM", "ddim"),
    "euler": ("Euler", "euler"),
    "euler_a": ("Euler a", "euler_ancestral"),
    "dpmpp_2m": ("DPM++ 2M", "dpmpp_2m"),
}
"""`inference.sampler` → what A1111 and what ComfyUI calls it."""
LEVELS = ("DDIM", "ddim_uniform")
"""What they call noise levels at equal distances of the timestep, which all of ours have."""


@dataclass(frozen=True)
class Staged:
    """A prompt with more than one stage, what is said of all prompts' stages, and the noise levels of its chain."""

    prompts: StagePrompts
    settings: StageSettings
    schedule: Schedule


@dataclass(frozen=True)
class Painted:
    """How a picture was painted.

    Attributes:
        prompt, negative: texts as the encoder read them; brackets are letters, which hosts are told.
        seed: of this picture alone.
        steps, guidance_scale: of the sampler.
        sampler: "chain", or a key of `SAMPLERS`.
        eta: noise that each step of the chain adds.
        size: width and height in pixels.
        checkpoint: name of its file with the ending, or of its folder.
        checkpoint_hash: ten digits, as A1111 has them; "" where that is not known.
        prediction: what the checkpoint was told to predict, "auto" where it says so itself.
        zero_snr: whether its last noise level is nothing but noise, as it was told: "yes", "no" or "auto".
        clip_skip: 0 for the checkpoint's own.
        vae: file name of another VAE than the checkpoint's own, or "".
        lora: name of the LoRA's file with the ending, or "".
        lora_hash: twelve digits, as A1111 has them.
        strength: of the LoRA.
        stages: of the prompt, where it has several; they go before `prompt` and `negative`.
    """

    prompt: str
    negative: str
    seed: int
    steps: int
    guidance_scale: float
    sampler: str
    eta: float
    size: tuple[int, int]
    checkpoint: str
    checkpoint_hash: str = ""
    prediction: str = "auto"
    zero_snr: str = "auto"
    clip_skip: int = 0
    vae: str = ""
    lora: str = ""
    lora_hash: str = ""
    strength: float = 1.0
    stages: Staged | None = None

    @classmethod
    def by(cls, config: RunConfig, lora: Path | None = None, *, hashed: bool = True) -> Painted:
        """With all that a config tells; prompt, seed, size and stages are each picture's own.

        Args:
            config: of the run, or of the command.
            lora: its file.
            hashed: whether the files are read for their hashes, which takes seconds for a checkpoint's first time.
        """
        model, sampling, inference = config.model, config.sampling, config.inference
        embedded = model.checkpoint == "embedded"
        path = CHECKPOINT if embedded else user_path(model.checkpoint)
        return cls(
            prompt="",
            negative=config.prompts.negative,
            seed=0,
            steps=inference.steps or sampling.steps,
            guidance_scale=inference.guidance_scale or sampling.guidance_scale,
            sampler=inference.sampler,
            eta=sampling.eta,
            size=(0, 0),
            checkpoint="embedded" if embedded else path.resolve().name,
            checkpoint_hash=checkpoint_hash(path) if hashed else "",
            prediction=model.prediction,
            zero_snr=model.zero_snr,
            clip_skip=model.clip_skip,
            vae=user_path(model.vae).name if model.vae else "",
            lora=lora.name if lora else "",
            lora_hash=lora_hash(lora) if lora and hashed else "",
        )

    def told(self, prompts: StagePrompts, settings: StageSettings, schedule: Schedule) -> Painted:
        """With a prompt: its text or its stages, its negative prompt, and how it is shown."""
        own = {
            name: prompts.shown.given[name]
            for name in ("steps", "guidance_scale")
            if name in prompts.shown.given
        }
        first, *more = prompts.prompts
        if more:
            return replace(self, stages=Staged(prompts, settings, schedule), **own)
        negative = prompts.negatives[0] if prompts.negatives else settings.negative
        return replace(self, prompt=first, negative=negative, **own)

    @property
    def has_lora(self) -> bool:
        """Whether a LoRA had any effect."""
        return bool(self.lora and self.strength)

    @property
    def names(self) -> tuple[str, str]:
        """The sampler's in A1111 and in ComfyUI. A chain with noise is Euler's ancestral one, as far as η is 1."""
        return SAMPLERS[("euler_a" if self.eta else "euler") if self.sampler == "chain" else self.sampler]


def parameters(painted: Painted) -> str:
    """A1111's text."""
    prompt, negative = escaped(painted.prompt), escaped(painted.negative)
    if said := painted.stages:
        prompt, negative = prompt_editing(said.prompts, said.settings, said.schedule)
    if painted.has_lora:
        prompt += f" <lora:{_stem(painted.lora)}:{painted.strength:g}>"
    negative = f"\nNegative prompt: {negative}" if negative else ""
    told = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in _facts(painted).items())
    return f"{prompt}{negative}\n{told}"


def _facts(painted: Painted) -> dict[str, Any]:
    """In A1111's order."""
    partly = painted.sampler == "chain" and 0 < painted.eta < 1
    facts = {
        "Steps": painted.steps,
        "Sampler": painted.names[0],
        "Schedule type": LEVELS[0],
        "CFG scale": f"{painted.guidance_scale:g}",
        "Seed": painted.seed,
        "Size": f"{painted.size[0]}x{painted.size[1]}",
        "Model hash": painted.checkpoint_hash,
        "Model": _stem(painted.checkpoint),
        "VAE": painted.vae,
        "Clip skip": painted.clip_skip if painted.clip_skip > 1 else "",
        "Eta": f"{painted.eta:g}" if partly else "",
        "Lora hashes": f"{_stem(painted.lora)}: {painted.lora_hash}"
        if painted.has_lora and painted.lora_hash
        else "",
        "Version": f"RLR {__version__}",
    }
    return {name: value for name, value in facts.items() if value != ""}


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if set(value) & set(",:\n") else value


def _stem(file: str) -> str:
    """A1111 leaves out the ending of a file."""
    for ending in (".safetensors", ".ckpt"):
        file = file.removesuffix(ending)
    return file
