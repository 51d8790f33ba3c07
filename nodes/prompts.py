"""Prompts: a list, one with a text for each stage, and the conditioning by which KSampler uses one."""

from __future__ import annotations

from typing import Any

from rlr_core.config import PromptConfig, Tables
from rlr_core.dcot import Boundaries, StagePrompts, StageSettings
from rlr_core.dcot.hosts.comfyui import SCHEDULERS, ranges
from rlr_core.dcot.lines import format_line
from rlr_core.dcot.texts import lines_of
from rlr_core.errors import PromptError
from rlr_core.trainer.prompts import training_prompts

from .inputs import setting_input, tables
from .sockets import CATEGORY, PROMPTS, Inputs, socket, text

BLEND = {"blend": "prompts.blend"}
"""Input → setting."""


class Prompts:
    """Prompts to train on, and others to judge by."""

    CATEGORY, FUNCTION = CATEGORY, "listed"
    RETURN_TYPES, RETURN_NAMES = (PROMPTS,), ("prompts",)
    OUTPUT_TOOLTIPS = ("For RLR: train.",)
    DESCRIPTION = "Prompts, one on each line. `coarse: … | mid: … | fine: …` gives each stage of denoising its own text."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Three texts."""
        own = "Prompts that are only judged on, one on each line; with none, a fifth of ten or more is set aside."
        return {
            "required": {
                "prompts": text("One training prompt on each line; # begins a comment."),
                "held_out": text(own),
                "negative": text("The negative prompt of all pictures."),
            },
            "optional": {"more": socket(PROMPTS, "Prompts that these are added to.")},
        }

    def listed(self, prompts: str, held_out: str, negative: str, more: Tables | None = None) -> tuple[Tables]:
        """The part of a config."""
        return (joined(more, lines_of(prompts), lines_of(held_out), negative),)


class Stages:
    """A prompt with a text for each stage of denoising."""

    CATEGORY, FUNCTION = CATEGORY, "staged"
    RETURN_TYPES, RETURN_NAMES = (PROMPTS,), ("prompts",)
    OUTPUT_TOOLTIPS = ("For RLR: train, or for another node of this kind.",)
    DESCRIPTION = "A prompt with a text for the layout, one for the geometry, one for the detail (diffusive chain-of-thought)."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """A text for each stage, and where they meet."""
        share = {"min": 0.01, "max": 0.99, "step": 0.001, "round": 0.001}
        mid, fine = "Where the middle stage begins, as a share of the chain.", "Where the last stage begins."
        return {
            "required": {
                "coarse": text("The layout: what the first steps draw."),
                "mid": text("The geometry: what the middle steps draw."),
                "fine": text("The detail: what the last steps draw."),
                "reward_prompt": text("What the reward is told; with nothing, the three together."),
                "negative": text("The negative prompt of all pictures."),
                "mid_from": ("FLOAT", {**share, "default": 0.333, "tooltip": mid}),
                "fine_from": ("FLOAT", {**share, "default": 0.667, "tooltip": fine}),
                **{name: setting_input(setting) for name, setting in BLEND.items()},
            },
            "optional": {"more": socket(PROMPTS, "Prompts that this one is added to.")},
        }

    def staged(self, more: Tables | None = None, **inputs: Any) -> tuple[Tables]:
        """The part of a config. Raises `PromptError`."""
        texts = tuple(" ".join(inputs[name].split()) for name in ("coarse", "mid", "fine"))
        meet = Boundaries((inputs["mid_from"], inputs["fine_from"]))
        prompt = StagePrompts(texts, boundaries=meet, intent=" ".join(inputs["reward_prompt"].split()))
        made = joined(more, [format_line(prompt)], [], inputs["negative"])
        made["prompts"] |= tables(BLEND, inputs)["prompts"]
        return (made,)


class Conditioning:
    """A prompt of several stages for KSampler: each text holds in its range of the chain."""

    CATEGORY, FUNCTION = CATEGORY, "encoded"
    RETURN_TYPES, RETURN_NAMES = ("CONDITIONING", "CONDITIONING"), ("positive", "negative")
    OUTPUT_TOOLTIPS = ("For KSampler.", "For KSampler.")
    DESCRIPTION = "Paint with a prompt by stages as it was trained, at the steps and the scheduler that KSampler is given."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """The prompts, which of them, and what KSampler is given."""
        number = {"default": 1, "min": 1, "max": 10_000, "tooltip": "Which of the prompts, from 1."}
        return {
            "required": {
                "clip": socket("CLIP", "Encodes the texts."),
                "prompts": socket(PROMPTS, "Prompts, of which one is taken."),
                "number": ("INT", number),
                "steps": setting_input("sampling.steps", default=30, tooltip="KSampler's steps."),
                "scheduler": (list(SCHEDULERS), {"tooltip": "KSampler's scheduler."}),
            }
        }

    def encoded(self, clip: Any, prompts: Tables, number: int, steps: int, scheduler: str) -> tuple[Any, Any]:
        """Positive and negative. Raises `PromptError`."""
        config = PromptConfig(**prompts["prompts"])
        known = training_prompts(config, embedded=False)
        if number > len(known):
            raise PromptError(f"prompt {number}", f"one from 1 to {len(known)}", "lower the number")
        prompt, settings = known[number - 1], StageSettings(negative=config.negative)
        held = ranges(prompt, settings, steps, scheduler)
        negatives = prompt.negatives or (settings.negative,) * len(prompt.prompts)
        return _staged(clip, prompt.prompts, held), _staged(clip, negatives, held)


def joined(more: Tables | None, train: list[str], held_out: list[str], negative: str) -> Tables:
    """Prompts added to others. They are ComfyUI's: weights, as (word:1.2), are read by its own CLIP."""
    before = (more or {}).get("prompts", {})
    return {
        "prompts": {
            **before,
            "train": [*before.get("train", []), *train],
            "held_out": [*before.get("held_out", []), *held_out],
            "negative": negative or before.get("negative", ""),
            "syntax": "literal",
        }
    }


def _staged(clip: Any, texts: tuple[str, ...], held: list[tuple[int, float, float]]) -> list[Any]:
    """As `ConditioningSetTimestepRange` and `ConditioningCombine` do it."""
    return [
        [value, {**others, "start_percent": start, "end_percent": end}]
        for stage, start, end in held
        for value, others in clip.encode_from_tokens_scheduled(clip.tokenize(texts[stage]))
    ]


NODES: dict[str, type] = {
    "RLRPrompts": Prompts,
    "RLRStagePrompts": Stages,
    "RLRStageConditioning": Conditioning,
}
