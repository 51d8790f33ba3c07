"""Settings that contradict each other: better said before anything is loaded, or painted, than at the end."""

from __future__ import annotations

from rlr_core.config import RunConfig
from rlr_core.errors import ConfigError
from rlr_core.families import LoraFamily


def check_settings(config: RunConfig) -> None:
    """What needs nothing but the config. Raises `ConfigError`."""
    _check_prompts_divide_the_batch(config)
    _check_the_best_is_known(config)
    _check_one_way_of_rounding(config)
    _check_a_trust_region_has_its_optimizer(config)


def _check_the_best_is_known(config: RunConfig) -> None:
    """What ends with the best LoRA has to look for it."""
    wanted = {"output.lora = best": config.output.lora, "alarm.action = rollback": config.alarm.action}
    for setting, value in wanted.items():
        if value in ("best", "rollback") and not (config.alarm.pictures and config.output.evaluation):
            raise ConfigError(
                f"{setting}, where no held-out pictures are scored on the way",
                "alarm.pictures and output.evaluation above 0",
                f"raise them, or leave {setting.split(' =')[0]} at its default",
            )


def check_format(config: RunConfig, family: LoraFamily) -> None:
    """The file is written at the end: better to know now that it can be."""
    if config.output.format not in ("auto", *family.formats):
        raise ConfigError(
            f"output.format = '{config.output.format}' for {family.title}",
            f"one of {', '.join(family.formats)}",
            "set output.format",
        )


def _check_prompts_divide_the_batch(config: RunConfig) -> None:
    training = config.training
    if training.batch_size % training.prompts_per_batch:
        raise ConfigError(
            f"training.prompts_per_batch = {training.prompts_per_batch} with training.batch_size = {training.batch_size}",
            "a number that divides the batch size",
            f"use a divisor of {training.batch_size}",
        )


def _check_one_way_of_rounding(config: RunConfig) -> None:
    """Autocast over weights in half rounds the LoRA's products as well; docs/memory.md has what that does to a gradient."""
    autocast, precision = config.memory.autocast, config.model.precision
    if autocast != "off" and precision != "float32":
        raise ConfigError(
            f"memory.autocast = {autocast} with model.precision = {precision}, which rounds the LoRA, too",
            "one of the two",
            "--set memory.autocast=off saves more memory; --set model.precision=float32 rounds less",
        )


def _check_a_trust_region_has_its_optimizer(config: RunConfig) -> None:
    """It reads Adam's moments, which 8 bits hold in a form of their own."""
    if config.training.step == "trust" and config.memory.optimizer != "adam":
        raise ConfigError(
            f"training.step = trust with memory.optimizer = {config.memory.optimizer}",
            "memory.optimizer = adam",
            "set it, or training.step = rate",
        )
