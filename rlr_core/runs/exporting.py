"""The LoRA of a checkpoint, as a file: of any run, in whatever state, without loading its model or disturbing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rlr_core.config import ModelConfig, RunConfig
from rlr_core.dcot import format_line
from rlr_core.embedded import CHECKPOINT
from rlr_core.errors import CheckpointError, RLRError, RunError
from rlr_core.families import FAMILIES, LoraFamily
from rlr_core.lora.files import understood
from rlr_core.lora.weights import LayerWeights, LoraWeights
from rlr_core.models.describing import describe_checkpoint
from rlr_core.runs.checkpoints import Checkpoint
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.export import Origin, export, numbered, reward_name, write_card
from rlr_core.runs.overview import Facts
from rlr_core.runs.summary import short
from rlr_core.runs.unlearned import refuse_unlearned
from rlr_core.storage import refuse_overwriting, user_path
from rlr_core.trainer.prompts import training_prompts


@dataclass(frozen=True)
class Exported:
    """A LoRA that was written.

    Attributes:
        iteration: that it is of.
        iterations: of all checkpoints that there are.
    """

    file: Path
    iteration: int
    iterations: list[int]


def export_checkpoint(
    folder: Path, iteration: int | None = None, out: Path | None = None, *, force: bool = False
) -> Exported:
    """Write the LoRA of a run's checkpoint, as the run would at its end, and beside it the card for hosts.

    Args:
        folder: of the run, which may be at work.
        iteration: of the checkpoint; the newest by default.
        out: a .safetensors file; by default `NAME-000010.safetensors` in the run's folder.
        force: whether a file that is there already is replaced.

    Raises `RunError` where there is no such checkpoint, `CheckpointError` for a LoRA without effect, `StorageError`.
    """
    directory = RunDirectory.open(folder)
    checkpoint = _checkpoint(directory, iteration)
    lora = directory.folder / f"{checkpoint.config.output.name}.safetensors"
    file = out or numbered(lora, checkpoint.iteration)
    card = file.with_suffix(".json")
    refuse_overwriting([file, card], force)
    source = f"the checkpoint of iteration {checkpoint.iteration}"
    found = understood(checkpoint.trainer["lora"], {}, source)
    weights = averaged({place: layer.as_lora() for place, layer in found.weights.items()}, checkpoint)
    refuse_unlearned(weights, checkpoint.config, directory.events_file)
    origin = _origin(checkpoint.config, found.family)
    export(file, origin, weights, checkpoint.iteration, Facts())
    write_card(file, origin, Facts())
    return Exported(file, checkpoint.iteration, directory.checkpoints.iterations)


def _checkpoint(directory: RunDirectory, iteration: int | None) -> Checkpoint:
    if iteration is not None:
        return directory.checkpoints.of_iteration(iteration, directory.identity)
    newest = directory.checkpoints.newest(directory.identity).checkpoint
    if newest is None:
        raise RunError(
            f"the run {directory.folder} has no checkpoint yet",
            "a run with one",
            "wait for its first; output.checkpoint_every says when",
        )
    return newest


def averaged(weights: LoraWeights, checkpoint: Checkpoint) -> LoraWeights:
    """The LoRA that the run would write at this checkpoint: the average of its iterations, where it takes one."""
    average, decay = checkpoint.trainer["average"], checkpoint.config.training.ema
    if not (decay and average["count"]):
        return weights
    means = (total / (1 - decay ** average["count"]) for total in average["sums"])
    return {place: _with_values(layer, means) for place, layer in weights.items()}


def _with_values(layer: LayerWeights, values: Iterator[Tensor]) -> LayerWeights:
    """With the next of `values` for down, up and, with DoRA, the magnitude, in the order of a LoRA's parameters."""
    names = ["down", "up", *([] if layer.magnitude is None else ["magnitude"])]
    taken: dict[str, Any] = {name: next(values).reshape(getattr(layer, name).shape) for name in names}
    return replace(layer, **taken)


def _origin(config: RunConfig, guessed: LoraFamily | None) -> Origin:
    family, model = _about_model(config.model, guessed)
    embedded = config.model.checkpoint == "embedded"
    return Origin(
        config=config,
        family=family,
        model=model,
        reward=reward_name(config.reward),
        held_out=short(config.reward.held_out),
        prompts=list(map(format_line, training_prompts(config.prompts, embedded=embedded))),
    )


def _about_model(config: ModelConfig, guessed: LoraFamily | None) -> tuple[LoraFamily, Mapping[str, str]]:
    """The family, and the metadata that name the model, by the checkpoint's header; where it has gone, by the LoRA alone."""
    embedded = config.checkpoint == "embedded"
    path = CHECKPOINT if embedded else user_path(config.checkpoint)
    name = {"ss_sd_model_name": config.checkpoint if embedded else path.resolve().name}
    with suppress(RLRError, OSError):
        found = describe_checkpoint(path, allow_pickle=config.allow_pickle)
        prediction = found.prediction if config.prediction == "auto" else config.prediction
        resolution = {"modelspec.resolution": f"{found.size}x{found.size}"}
        if family := next((each.lora for each in FAMILIES.values() if each.title == found.family), guessed):
            return family, {**name, **resolution, **family.metadata(prediction)}
    if guessed:
        return guessed, name
    raise CheckpointError(
        f"{path} cannot be read, and the LoRA does not tell which family it is for",
        "the checkpoint that the run was made with",
        "put it back",
    )
