"""From a config to the objects of a run: model, LoRA, rewards, problem, estimator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rlr_core.chain import Denoiser, Level, Prediction
from rlr_core.config import ModelConfig, RewardConfig, RunConfig
from rlr_core.errors import ConfigError
from rlr_core.estimators import Estimator, Gain, Problem, build, ignored_settings
from rlr_core.lora import InjectedLora, inject, load_lora
from rlr_core.models import Guests, Model, load_configured, prompted, save_memory
from rlr_core.rewards import Reward, load_mix, load_reward
from rlr_core.trainer.prompts import held_out_prompts, training_prompts
from rlr_core.trainer.sampling import Painter, painter
from rlr_core.trainer.seeding import seeded


class StopRequested(Exception):
    """Somebody asked the run to stop; raised between two denoising steps."""


@dataclass(frozen=True)
class Interruptible:
    """A denoiser that looks whether it should go on before every evaluation."""

    denoiser: Denoiser
    should_stop: Callable[[], bool]

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        if self.should_stop():
            raise StopRequested
        return self.denoiser(x, level, conditioning)


@dataclass(frozen=True)
class Setup:
    """Everything that a run is made of.

    Attributes:
        encode: prompts and the negative prompt → the conditioning of the problem's denoiser.
        painter: for previews and evaluations.
    """

    config: RunConfig
    model: Model
    lora: InjectedLora
    reward: Reward
    held_out: Reward
    watched: dict[str, Reward]
    problem: Problem
    estimator: Estimator
    prompts: list[str]
    held_out_prompts: list[str]
    encode: Callable[[Sequence[str], str], dict[str, Tensor]]
    painter: Painter

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, h, w) of a latent."""
        return self.model.latent_shape(self.config.sampling.size)


def prepare(
    config: RunConfig,
    should_stop: Callable[[], bool] = lambda: False,
    device: torch.device | None = None,
    load: Callable[[ModelConfig, torch.device], Model] | None = None,
) -> Setup:
    """Load and check everything. Whatever the user has to put right is an `RLRError` from here, before training starts.

    Args:
        config: of the run.
        should_stop: asked between two denoising steps.
        device: instead of the config's; "meta" loads shapes only.
        load: instead of `load_configured`.
    """
    _check_prompts_divide_the_batch(config)
    _check_the_best_is_known(config)
    _check_one_way_of_rounding(config)
    prompts = training_prompts(config.prompts, embedded=config.model.checkpoint == "embedded")
    held_out = held_out_prompts(config.prompts)
    estimator = build(config.estimator, config.sampling.steps)
    for name in ignored_settings(config.estimator):
        warnings.warn(f"estimator.{name} is ignored by the estimator '{config.estimator.name}'", stacklevel=2)
    device = device or choose_device(config.model.device)
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    guests, memory = Guests(device), config.memory
    visiting = partial(_visiting, guests) if memory.offload == "all" else lambda reward: reward
    with seeded(0):  # a user's file may draw random numbers, or seed them, when it is loaded
        reward = _reward(config.reward, device, visiting)
        held_out_reward = visiting(load_reward(config.reward.held_out, device, config.reward))
        watched = {name: visiting(load_reward(name, device, config.reward)) for name in config.reward.watch}
    model = (load or load_configured)(config.model, device)
    save_memory(model, memory, guests)
    lora = _lora(config, model)
    if memory.offload != "none" and not lora.in_text_encoder:
        for network in model.networks.values():
            if network is not model.unet:
                network.to("cpu")
    view = prompted(model, config.sampling.guidance_scale, encode_anew=lora.in_text_encoder)
    problem = Problem(
        denoiser=Interruptible(view.denoiser, should_stop),
        schedule=model.schedule(config.sampling.steps),
        decode=model.decode,
        reward=reward,
        parameters=lora.parameters,
        eta=config.sampling.eta,
        gain=Gain() if "float16" in (config.model.precision, memory.autocast) else None,
    )
    estimator.check(problem, config.training.batch_size)
    return Setup(
        config=config,
        model=model,
        lora=lora,
        reward=reward,
        held_out=held_out_reward,
        watched=watched,
        problem=problem,
        estimator=estimator,
        prompts=prompts,
        held_out_prompts=held_out,
        encode=view.encode,
        painter=_painter(config, model, should_stop, encode_anew=lora.in_text_encoder),
    )


def _lora(config: RunConfig, model: Model) -> InjectedLora:
    """A new one, or that of a file."""
    settings = config.lora
    if not settings.start:
        return inject(model.networks, settings, config.training.seed)
    lora = load_lora(Path(settings.start).expanduser(), model.networks)
    networks = " and ".join(lora.networks)
    warnings.warn(
        f"going on from {settings.start}: rank {lora.rank}, alpha {lora.alpha:g}, {len(lora.sizes)} layers of {networks},"
        " whatever [lora] says",
        stacklevel=3,
    )
    return lora


def _reward(config: RewardConfig, device: torch.device, visiting: Callable[[Reward], Reward]) -> Reward:
    if config.name == "mix":
        return visiting(load_mix(config, device))
    return visiting(load_reward(config.name, device, config))


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


def _painter(
    config: RunConfig, model: Model, should_stop: Callable[[], bool], *, encode_anew: bool
) -> Painter:
    """Paints previews and evaluations, and can be interrupted between two steps."""
    brush = painter(
        model, config.sampling, config.inference, negative=config.prompts.negative, encode_anew=encode_anew
    )
    denoiser = Interruptible(brush.prompted.denoiser, should_stop)
    return replace(brush, prompted=brush.prompted._replace(denoiser=denoiser), together=config.memory.painted)


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


def _visiting(guests: Guests, reward: Reward) -> Reward:
    """The reward, its networks on the card only while it scores."""
    for network in reward.networks:
        network.to("cpu")
    return reward.wrapped(guests.invited)


def choose_device(name: str) -> torch.device:
    """The device named, or the best there is for "auto"."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    if not available[name]:
        raise ConfigError(
            f"model.device = '{name}', which this machine does not have", "auto or cpu", "set model.device"
        )
    return torch.device(name)
