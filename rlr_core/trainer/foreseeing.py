"""What can be known of a run before its weights are loaded: of its model by shapes, of its rewards by asking them once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from rlr_core.config import RunConfig, Size
from rlr_core.dcot import Shown
from rlr_core.embedded import CHECKPOINT
from rlr_core.errors import CheckpointError
from rlr_core.estimators import Estimator, Problem
from rlr_core.lora import load_lora
from rlr_core.models.describing import describe_checkpoint
from rlr_core.models.refusals import refuse_incomplete, refuse_untold
from rlr_core.storage import user_path
from rlr_core.trainer.checks import check_format
from rlr_core.trainer.materials import Materials, Rewards
from rlr_core.trainer.probing import probe
from rlr_core.trainer.sampling import Canvas, canvas, painter
from rlr_core.trainer.seeding import seeded

META = torch.device("meta")


@dataclass
class Foreseen:
    """Looks ahead, first at the model, and raises `RLRError` for what could not work once everything is loaded.

    Attributes:
        prompts: two of the run's: one to train on, one to judge by.
        shown: how previews will show prompts.
        canvases: that pictures will have; none before the model was looked at.
        own_size: of the checkpoint's own pictures.
    """

    config: RunConfig
    given: Materials
    estimator: Estimator
    prompts: tuple[str, str]
    shown: Sequence[Shown] = ()
    canvases: Sequence[Canvas] = field(default_factory=list)
    own_size: Size = (0, 0)

    def look_at_model(self) -> None:
        """Its files, then the model with shapes instead of weights: sizes, sampler, format, a LoRA's file."""
        config = self.config
        self._look_at_files()
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stack.enter_context(seeded(0))
            model = self.given.load(config.model, META)
            check_format(config, model.lora_family)
            brush = painter(model, config.sampling, config.inference)
            for own in dict.fromkeys(replace(each, seed=None) for each in self.shown):
                brush.showing(own)
            if config.lora.start:
                load_lora(user_path(config.lora.start), model).eject()
            self.canvases = [canvas(model, config.sampling.steps, size) for size in config.sampling.sizes]

    def look_at(self, rewards: Rewards, device: torch.device) -> None:
        """Ask every reward once, and the estimator whether it can work with the one that is trained on.

        Rewards that a caller brings as objects are not asked: they may count their calls, or learn from them.
        """
        if self.given.rewards is None:
            size = self.config.sampling.sizes[0] or self.own_size
            probe(rewards, size, device, self.prompts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for each in self.canvases:
                eta = self.config.sampling.eta
                problem = Problem(_nothing, each.schedule, _nothing, rewards.trained, (), eta)
                self.estimator.check(problem, self.config.training.batch_size)

    def _look_at_files(self) -> None:
        """Whether all parts of the checkpoint are there."""
        model = self.config.model
        if model.vae and not user_path(model.vae).exists():
            got = f"there is no VAE at {model.vae}"
            raise CheckpointError(got, "a file or folder", "check model.vae for a typing error")
        path = CHECKPOINT if model.checkpoint == "embedded" else user_path(model.checkpoint)
        described = describe_checkpoint(path, allow_pickle=model.allow_pickle)
        refuse_incomplete(path, described, separate_vae=bool(model.vae))
        refuse_untold(path, described, model.prediction)
        self.own_size = (described.size, described.size)


def _nothing(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is painted yet")
