"""A run of the core on ComfyUI's MODEL, CLIP and VAE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rlr_core.config import RunConfig
from rlr_core.errors import CheckpointError
from rlr_core.lora import inject
from rlr_core.lora.hooked_lora import HookedLora
from rlr_core.runs import RunDirectory, resume, start
from rlr_core.runs.self_contained import self_contained
from rlr_core.trainer import Materials, Rewards
from rlr_core.trainer.deciding import decided
from rlr_core.trainer.prompts import held_out_prompts, stage_settings, training_prompts

from .families import family_of
from .host import load_models_gpu, training
from .identity import identity
from .inference import trainable
from .kept_inputs import kept_inputs
from .live import Telling
from .model import HostModel
from .out_of_memory import room_made, told_in_words
from .texts import Texts


@dataclass(frozen=True)
class Given:
    """What a run is wired to.

    Attributes:
        model, clip, vae: ComfyUI's own.
        name: of the checkpoint, for people; "" for one that is made from what is there (see `identity`).
    """

    model: Any
    clip: Any
    vae: Any
    name: str = ""


def texts_of(config: RunConfig) -> list[str]:
    """All that a run will ask its text encoders for, each once."""
    settings = decided(config).prompts
    prompts = [*training_prompts(settings, embedded=False), *held_out_prompts(settings)]
    texts = [text for each in prompts for text in (*each.prompts, *each.negatives)]
    return list(dict.fromkeys([*texts, stage_settings(settings).negative]))


def refuse_lacking(given: Given) -> None:
    """Loaders give nothing where a file has no CLIP, and an empty VAE where it has none. Raises `CheckpointError`."""
    decoder = given.vae and given.vae.first_stage_model
    for kind, there in {"CLIP": given.clip, "VAE": decoder}.items():
        if there is None:
            raise CheckpointError(
                f"a checkpoint without a {kind}",
                f"a {kind}",
                f"load one by ComfyUI's Load {kind}, and wire it",
            )


READERS = (
    "attn2.to_k",
    "context_embedder",
    "txt_in",
    "y_embedder.y_proj.fc1",
    "cap_embedder.1",
    "cond_seq_linear",
)
"""Ends of the names of layers that texts go into first, where a network's kind is known to have one."""


def refuse_others_texts(given: Given, texts: Texts) -> None:
    """Raise `CheckpointError` for a CLIP that is not of the MODEL's family."""
    layers = given.model.model.diffusion_model.named_modules()
    reading = (layer.weight.shape[-1] for name, layer in layers if name.endswith(READERS))
    wanted = next(reading, texts.width)
    if texts.width != wanted:
        raise CheckpointError(
            f"a CLIP whose texts are {texts.width} numbers wide, for a MODEL that reads {wanted}",
            "the CLIP of the MODEL's family",
            "wire the CLIP of the same checkpoint",
        )


def notes_on(given: Given) -> Iterator[str]:
    """What is good to know of a MODEL before it is trained on."""
    if below := len(given.model.patches):
        yield f"what is on {below} weights of the MODEL stays below, and is not part of the LoRA"
    if (family := family_of(given.model)).experimental:
        yield f"{family.lora.title}: tell by pictures, not by the curve alone, whether it learns"


@contextmanager
def held(given: Given, config: RunConfig, scheduler: str) -> Iterator[HostModel]:
    """The model of a run, with its networks on the host's device and gradients through them; afterwards all is as before."""
    family = family_of(given.model)
    refuse_lacking(given)
    texts = Texts(given.clip, texts_of(config), own_length=family.experimental)
    refuse_others_texts(given, texts)
    load_models_gpu([given.model, given.vae.patcher], force_full_load=True)
    networks = (given.model.model, given.vae.first_stage_model)
    guarded = kept_inputs(given.model.model.diffusion_model) if family.experimental else nullcontext()
    with training(), trainable(*networks), guarded:
        given.model.pre_run()
        try:
            name = given.name or identity(given.model, given.vae.first_stage_model, texts.all, scheduler)
            yield HostModel(name, given.model, given.vae, texts, scheduler, noisy=config.sampling.eta > 0)
        finally:
            given.model.cleanup()


def train(
    given: Given,
    config: RunConfig,
    place: Callable[[RunConfig], RunDirectory],
    telling: Callable[[RunDirectory], Telling],
    scheduler: str = "normal",
    rewards: Rewards | None = None,
) -> RunDirectory:
    """A run from the beginning, or the rest of one. ComfyUI's Cancel stops it between two steps; what is learned is kept.

    Args:
        place: the run's folder, of its whole config: a new one, that of a run which was stopped, or of a finished one, where
            nothing is left to do.
        telling: makes the listener of a run.
        scheduler: ComfyUI's name of how the noise levels lie.
        rewards: objects instead of what the config names.
    """
    with room_made(), held(given, config, scheduler) as model:
        materials = Materials(model=model, rewards=rewards)
        whole = self_contained(materials.named(config), keep_model=True)
        directory = place(whole)
        if directory.finished:
            return directory
        lora = inject(model, config.lora, config.training.seed, partial(HookedLora, device=model.device))
        listener = telling(directory)
        if notes := list(notes_on(given)):
            listener.tell("", note="\n".join(notes))
        try:
            materials = replace(materials, lora=lora)
            _carry_out(directory, whole, listener, materials)
            listener.over()
        except BaseException as error:
            listener.over(error)
            raise
        finally:
            lora.eject()
    return directory


def _carry_out(directory: RunDirectory, config: RunConfig, listener: Telling, materials: Materials) -> None:
    known = {"materials": materials, "should_stop": listener.should_stop}
    with told_in_words():
        if directory.config_file.is_file():
            with directory.held():
                directory.rewrite(config)
            resume(directory.folder, listener, **known)
        else:
            start(config, directory.folder, listener, **known)
