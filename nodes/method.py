"""How is trained: the estimator, by name of a preset or setting by setting, and what most people leave as it is."""

from __future__ import annotations

from typing import Any

from rlr_core.config import Tables
from rlr_core.config.presets import PRESETS, settings
from rlr_core.estimators import ESTIMATORS

from .inputs import ADVANCED, LEFT, setting_input, tables
from .sockets import CATEGORY, ESTIMATOR, SETTINGS, Inputs


class Preset:
    """An estimator of the gradient, by what it is for."""

    CATEGORY, FUNCTION = CATEGORY, "chosen"
    RETURN_TYPES, RETURN_NAMES = (ESTIMATOR,), ("estimator",)
    OUTPUT_TOOLTIPS = ("For RLR: train.",)
    DESCRIPTION = "How the gradient is estimated. " + " ".join(
        f"{k}: {v.summary}." for k, v in PRESETS.items()
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """The presets."""
        told = "; ".join(f"{name}: {each.summary}" for name, each in PRESETS.items())
        return {"required": {"preset": (list(PRESETS), {"default": "default", "tooltip": told})}}

    def chosen(self, preset: str) -> tuple[Tables]:
        """The part of a config."""
        return (settings(preset),)


class Advanced:
    """An estimator of the gradient, setting by setting."""

    CATEGORY, FUNCTION = CATEGORY, "chosen"
    RETURN_TYPES, RETURN_NAMES = (ESTIMATOR,), ("estimator",)
    OUTPUT_TOOLTIPS = ("For RLR: train.",)
    DESCRIPTION = (
        "Every setting of the estimator; those that one does not read are named when training begins."
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """All of the estimator's settings."""
        name = {"default": "lookahead", "tooltip": "The estimator; `rlr estimators` says what each is."}
        others = {given: setting_input(setting) for given, setting in ADVANCED.items()}
        return {"required": {"name": (list(ESTIMATORS), name), **others}}

    def chosen(self, name: str, **inputs: Any) -> tuple[Tables]:
        """The part of a config. Raises `ConfigError`."""
        found = tables(ADVANCED, inputs)
        found["estimator"]["name"] = name
        return (found,)


class Settings:
    """What most people leave as it is."""

    CATEGORY, FUNCTION = CATEGORY, "chosen"
    RETURN_TYPES, RETURN_NAMES = (SETTINGS,), ("settings",)
    OUTPUT_TOOLTIPS = ("For RLR: train.",)
    DESCRIPTION = "Settings of the LoRA, the optimizer, the memory and what a run leaves behind."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Those of `LEFT`, and the LoRA's alpha."""
        alpha = {"default": 0.0, "min": 0.0, "max": 1e6, "step": 0.5}
        told = "The LoRA's effect is scaled by alpha / rank; 0: the rank, so that it is not scaled."
        return {
            "required": {
                "alpha": ("FLOAT", {**alpha, "tooltip": told}),
                **{
                    given: setting_input(setting, default=FITTED.get(setting))
                    for given, setting in LEFT.items()
                },
            }
        }

    def chosen(self, alpha: float, **inputs: Any) -> tuple[Tables]:
        """The part of a config."""
        found = tables(LEFT, inputs)
        return (found if not alpha else {**found, "lora": {**found["lora"], "alpha": alpha}},)


FITTED = {"training.ema": 0.95, "output.checkpoint_every": 25}
"""As for checkpoints of Stable Diffusion (`families/stable_diffusion/defaults.py`)."""
NODES: dict[str, type] = {
    "RLREstimator": Preset,
    "RLREstimatorAdvanced": Advanced,
    "RLRSettings": Settings,
}
