"""A run of the core on ComfyUI's MODEL, CLIP and VAE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlr_core.config import RunConfig
from rlr_core.lora import inject
from rlr_core.lora.hooked_lora import HookedLora
from rlr_core.runs import RunDirectory, start
from rlr_core.trainer import Materials, Rewards
from rlr_core.trainer.deciding import decided
from rlr_core.trainer.prompts import held_out_prompts, stage_settings, training_prompts

from .families import family_of
from .host import load_models_gpu, processing_interrupted
from .inference import trainable
from .model import HostModel
from .texts import Texts


@dataclass(frozen=True)
class Given:
    """What a run is wired to.

    Attributes:
        model, clip, vae: ComfyUI's own.
        name: of the checkpoint, for people.
    """

    model: Any
    clip: Any
    vae: Any
    name: str = "ComfyUI's MODEL"


def texts_of(config: RunConfig) -> list[str]:
    """All that a run will ask its text encoders for, each once."""
    settings = decided(config).prompts
    prompts = [*training_prompts(settings, embedded=False), *held_out_prompts(settings)]
    texts = [text for each in prompts for text in (*each.prompts, *each.negatives)]
    return list(dict.fromkeys([*texts, stage_settings(settings).negative]))


@contextmanager
def held(given: Given, config: RunConfig, scheduler: str) -> Iterator[HostModel]:
    """The model of a run, with its networks on the host's device and gradients through them; afterwards all is as before."""
    family_of(given.model)
    texts = Texts(given.clip, texts_of(config))
    load_models_gpu([given.model, given.vae.patcher], force_full_load=True)
    networks = (given.model.model, given.vae.first_stage_model)
    with trainable(*networks):
        given.model.pre_run()
        try:
            yield HostModel(given.name, given.model, given.vae, texts, scheduler)
        finally:
            given.model.cleanup()


def train(
    given: Given,
    config: RunConfig,
    folder: Path,
    listen: Callable[[Any], None] = lambda event: None,
    scheduler: str = "normal",
    rewards: Rewards | None = None,
) -> RunDirectory:
    """Train in a new folder. ComfyUI's Cancel stops the run between two steps, and what is learned is kept.

    Args:
        listen: called with every event.
        scheduler: ComfyUI's name of how the noise levels lie.
        rewards: objects instead of what the config names.
    """
    with held(given, config, scheduler) as model:
        lora = inject(model, config.lora, config.training.seed, HookedLora)
        try:
            materials = Materials(model=model, lora=lora, rewards=rewards)
            return start(config, folder, listen, materials=materials, should_stop=processing_interrupted)
        finally:
            lora.eject()
