"""From a config to the objects of a run: model, LoRA, rewards, problem, estimator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rlr_core.chain import Denoiser, Level, Prediction
from rlr_core.config import RunConfig
from rlr_core.dcot import StagePrompts, StageSettings
from rlr_core.errors import ConfigError
from rlr_core.estimators import Estimator, Gain, Problem, build, ignored_settings
from rlr_core.families import Role
from rlr_core.lora import Lora, inject, load_lora
from rlr_core.models import (
    Guests,
    Model,
    Prompted,
    away,
    networks_of,
    prompted,
    saving_memory,
)
from rlr_core.rewards import Reward
from rlr_core.storage import user_path
from rlr_core.trainer.checks import check_format, check_settings
from rlr_core.trainer.deciding import decided
from rlr_core.trainer.devices import choose_device, threads
from rlr_core.trainer.foreseeing import Foreseen
from rlr_core.trainer.leash import has_distance
from rlr_core.trainer.materials import Materials, Rewards, load_rewards
from rlr_core.trainer.misgivings import stands_still
from rlr_core.trainer.prompts import held_out_prompts, stage_settings, training_prompts
from rlr_core.trainer.sampling import Canvas, Painter, canvas, painter


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
    """Everything that a run is made of; `close` leaves the model as it was found.

    Attributes:
        problems: for each size that batches have in turn.
        canvases: of the same sizes.
        stages: what is said of the stages of all prompts.
        prompted: the denoiser of the problems with its conditioning.
        painter: for previews and evaluations.
    """

    config: RunConfig
    model: Model
    lora: Lora
    rewards: Rewards
    problems: Sequence[Problem]
    canvases: Sequence[Canvas]
    estimator: Estimator
    prompts: list[StagePrompts]
    held_out_prompts: list[StagePrompts]
    stages: StageSettings
    prompted: Prompted
    painter: Painter
    undo: ExitStack = field(default_factory=ExitStack)

    @property
    def problem(self) -> Problem:
        """That of the first size."""
        return self.problems[0]

    @property
    def reward(self) -> Reward:
        """The one that is trained on."""
        return self.rewards.trained

    @property
    def held_out(self) -> Reward:
        """The one that only watches."""
        return self.rewards.held_out

    @property
    def watched(self) -> Mapping[str, Reward]:
        """More that only watch."""
        return self.rewards.watched

    def close(self) -> None:
        """Eject what was put into the networks, and bring them and the process's threads back to what they were."""
        self.undo.close()

    def __enter__(self) -> Setup:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prepare(
    config: RunConfig,
    should_stop: Callable[[], bool] = lambda: False,
    device: torch.device | None = None,
    materials: Materials | None = None,
) -> Setup:
    """Load and check everything. Whatever the user has to put right is an `RLRError` from here, before training starts.

    Args:
        config: of the run.
        should_stop: asked between two denoising steps.
        device: instead of the config's; "meta" loads shapes only.
        materials: objects instead of what the config names.
    """
    check_settings(config)
    config = decided(config)
    prompts = training_prompts(config.prompts, embedded=config.model.checkpoint == "embedded")
    held_out, stages = held_out_prompts(config.prompts), stage_settings(config.prompts)
    estimator = build(config.estimator, config.sampling.steps)
    for name in ignored_settings(config.estimator):
        warnings.warn(f"estimator.{name} is ignored by the estimator '{config.estimator.name}'", stacklevel=2)
    if stands_still(config):
        warnings.warn("training.learning_rate is 0: nothing will be learned", stacklevel=2)
    with ExitStack() as stack:
        asked = prompts[0].scored, held_out[0].scored
        shown = [prompt.shown for prompt in held_out]
        foreseen = Foreseen(config, materials or Materials(), estimator, asked, shown)
        objects = _objects(config, materials or Materials(), device, stack, foreseen)
        model, lora = objects.model, objects.lora
        view = prompted(
            model,
            config.sampling.guidance_scale,
            encode_anew=lora.in_text_encoder,
        )
        denoiser = Interruptible(view.denoiser, should_stop)
        canvases = [canvas(model, config.sampling.steps, size) for size in config.sampling.sizes]
        problems = [_problem(config, objects, denoiser, each, stages) for each in canvases]
        _tell_limits(config, problems)
        for problem in problems:
            estimator.check(problem, config.training.batch_size)
            _check_noise(config, problem)
        return Setup(
            config=config,
            model=model,
            lora=lora,
            rewards=objects.rewards,
            problems=problems,
            canvases=canvases,
            estimator=estimator,
            prompts=prompts,
            held_out_prompts=held_out,
            stages=stages,
            prompted=view,
            painter=_painter(config, model, stages, should_stop, encode_anew=lora.in_text_encoder),
            undo=stack.pop_all(),
        )


@dataclass(frozen=True)
class _Objects:
    """Model, LoRA and rewards, ready for use."""

    model: Model
    lora: Lora
    rewards: Rewards


def _objects(
    config: RunConfig,
    given: Materials,
    device: torch.device | None,
    stack: ExitStack,
    foreseen: Foreseen,
) -> _Objects:
    """What is given, and the rest as the config names it; `stack` undoes what is done to them.

    What can be refused is refused first, and the weights of the model, which take longest, are loaded last.
    """
    stack.enter_context(threads(config.model.threads))
    memory = config.memory
    device = device or (given.model.device if given.model else choose_device(config.model.device))
    guests = Guests(device)
    loads = given.by_config and device.type != "meta"
    if loads:
        foreseen.look_at_model()
    rewards = given.rewards or load_rewards(config.reward, device)
    if memory.offload == "all":
        rewards = _all_visiting(guests, rewards, stack)
    if loads:
        foreseen.look_at(rewards, device)
    model = given.model or given.load(config.model, device)
    model = stack.enter_context(saving_memory(model, memory, guests))
    lora = given.lora or _new_lora(config, model, stack)
    check_format(config, lora.family)
    if memory.offload != "none" and not lora.in_text_encoder:
        stack.enter_context(away(networks_of(model, Role.TEXT_ENCODER), device))
    return _Objects(model, lora, rewards)


def _new_lora(config: RunConfig, model: Model, stack: ExitStack) -> Lora:
    """A new one, or that of a file."""
    settings = config.lora
    if not settings.start:
        lora = inject(model, settings, config.training.seed)
        stack.callback(lora.eject)
        return lora
    lora = load_lora(user_path(settings.start), model)
    stack.callback(lora.eject)
    networks = " and ".join(lora.networks)
    warnings.warn(
        f"going on from {settings.start}: rank {lora.rank}, alpha {lora.alpha:g}, {len(lora.sizes)} layers of {networks},"
        " whatever [lora] says",
        stacklevel=4,
    )
    return lora


def _all_visiting(guests: Guests, rewards: Rewards, stack: ExitStack) -> Rewards:
    """All rewards' networks on the card only while they score."""
    watched = {name: _visiting(guests, reward, stack) for name, reward in rewards.watched.items()}
    trained = _visiting(guests, rewards.trained, stack)
    same = rewards.held_out is rewards.trained
    return Rewards(trained, trained if same else _visiting(guests, rewards.held_out, stack), watched)


def _check_noise(config: RunConfig, problem: Problem) -> None:
    """Without noise on its way a path has no density. Raises `ConfigError`."""
    if config.training.step == "trust" and not has_distance(problem):
        raise ConfigError(
            f"training.step = trust for a chain of {problem.steps} steps, none of which adds noise",
            "at least one step that does, which is not the last one of most schedules",
            "raise sampling.steps, or set training.step = rate",
        )


def _tell_limits(config: RunConfig, problems: Sequence[Problem]) -> None:
    """What is left out is said."""
    problem, held = problems[0], config.training.max_kl
    if held and not all(map(has_distance, problems)):
        warnings.warn(
            f"training.max_kl = {held:g} cannot hold chains of {problem.steps} steps, none of which adds noise: raise"
            " sampling.steps, or look at the previews",
            stacklevel=3,
        )
    if problem.window:
        first, last = problem.window.start + 1, problem.window.stop
        warnings.warn(
            f"sub-chains come from steps {first} to {last} of {problem.steps} ({', '.join(config.estimator.stages)}): this is"
            " no longer the gradient of the whole chain, and what other steps could learn is left out on purpose",
            stacklevel=3,
        )


def _problem(
    config: RunConfig, objects: _Objects, denoiser: Denoiser, canvas: Canvas, stages: StageSettings
) -> Problem:
    """The objective for pictures of one size."""
    chosen = config.estimator.stages
    return Problem(
        denoiser=denoiser,
        schedule=canvas.schedule,
        decode=objects.model.decode,
        reward=objects.rewards.trained,
        parameters=objects.lora.parameters,
        eta=config.sampling.eta,
        gain=Gain() if "float16" in (config.model.precision, config.memory.autocast) else None,
        window=stages.steps_of(chosen, canvas.schedule) if chosen else None,
    )


def _painter(
    config: RunConfig,
    model: Model,
    stages: StageSettings,
    should_stop: Callable[[], bool],
    *,
    encode_anew: bool,
) -> Painter:
    """Paints previews and evaluations, and can be interrupted between two steps."""
    brush = painter(model, config.sampling, config.inference, stages=stages, encode_anew=encode_anew)

    def heeding(prompted: Prompted) -> Prompted:
        return replace(prompted, denoiser=Interruptible(prompted.denoiser, should_stop))

    return replace(
        brush,
        prompted=heeding(brush.prompted),
        view=lambda scale: heeding(brush.view(scale)),
        together=config.memory.painted,
    )


def _visiting(guests: Guests, reward: Reward, stack: ExitStack) -> Reward:
    """The reward, its networks on the card only while it scores."""
    stack.enter_context(away(reward.networks, guests.device))
    return reward.wrapped(guests.invited)
