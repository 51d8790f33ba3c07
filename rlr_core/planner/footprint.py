"""How much memory and work a config's iteration takes, from a rehearsal of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from rlr_core.config import RunConfig
from rlr_core.models import load_configured
from rlr_core.planner.on_meta import AsOn
from rlr_core.planner.rehearsal import Rehearsal, RehearsedModel
from rlr_core.trainer import Materials, Setup, Trainer, prepare, score

META = torch.device("meta")
WEIGHTS, LORA = "weights", "LoRA and optimizer"
LONG = 8
"""Steps that show what any number of steps needs, for estimators that differentiate every one of them."""


@dataclass(frozen=True)
class Footprint:
    """What a run takes of a device.

    Attributes:
        training: bytes at the peak of an iteration, by part.
        painting: bytes at the peak of a preview or an evaluation.
        flops: floating-point operations of an iteration.
        weights: network → bytes of its weights, wherever they are.
        savings: settings of [memory] that the model takes; see `Model.savings`.
    """

    training: Mapping[str, int]
    painting: int
    flops: float
    weights: Mapping[str, int]
    savings: Sequence[str] = ()

    @property
    def peak(self) -> int:
        """Bytes at the peak of the whole run."""
        return max(sum(self.training.values()), self.painting)


def rehearse(config: RunConfig, device: str) -> Footprint:
    """Rehearse one iteration and one preview as on `device` ("cuda", "cpu", "mps"). Raises `RLRError` as training would."""
    if config.estimator.name == "auto":  # which of the two it will be is measured when the run starts
        either = [rehearse(with_estimator(config, name), device) for name in ("lookahead", "flow_bp")]
        largest = max(either, key=lambda found: found.peak)
        return replace(largest, flops=max(found.flops for found in either))
    short, share = shortened(_scaled(settled(config, device)))
    rehearsal = Rehearsal()
    materials = Materials(
        load=lambda settings, on: RehearsedModel.of(load_configured(settings, on), rehearsal)
    )
    with rehearsal, AsOn(device), warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        with rehearsal.part(WEIGHTS):
            setup = stack.enter_context(prepare(short, device=META, materials=materials))
        trainer = _settled(setup, rehearsal)
        rehearsal.restart()
        trainer.iterate()
        training, flops = dict(rehearsal.at_peak), rehearsal.flops
        rehearsal.restart()
        _paint(setup, config)
        networks = {component.name: component.network for component in setup.model.components}
        weights = {name: _bytes(network) for name, network in networks.items()}
        weights["rewards"] = _bytes(_together(setup))
    return Footprint(training, rehearsal.peak, flops / share, weights, setup.model.savings)


def with_estimator(config: RunConfig, name: str) -> RunConfig:
    """The config with another estimator."""
    return replace(config, estimator=replace(config.estimator, name=name))


def settled(config: RunConfig, device: str) -> RunConfig:
    """The config with what `device` decides."""
    precision = "bfloat16" if device == "cuda" else "float32"
    sizes = [size for size in config.sampling.sizes if size]
    if len(sizes) > 1:
        largest = list(max(sizes, key=lambda size: size[0] * size[1]))
        config = replace(config, sampling=replace(config.sampling, size=largest))
    if device == "cpu":  # what is taken off it stays in the same memory
        config = replace(config, memory=replace(config.memory, offload="none"))
    if config.reward.precision != "auto":
        return config
    return replace(config, reward=replace(config.reward, precision=precision))


def _scaled(config: RunConfig) -> RunConfig:
    """With a given scale for every part of a mix: pictures without numbers have none that could be measured."""
    means, spreads = (dict.fromkeys(config.reward.mix, value) for value in (0.0, 1.0))
    return replace(config, reward=replace(config.reward, mix_mean=means, mix_spread=spreads))


def shortened(config: RunConfig) -> tuple[RunConfig, float]:
    """A config with the same peak that is quicker to rehearse, and its share of the work."""
    estimator, sampling, training = config.estimator, config.sampling, config.training
    if estimator.name == "alignprop":  # draws its K up to T: the worst case
        estimator = replace(estimator, name="draft", first_order_steps=sampling.steps)
    batch = min(training.batch_size, 2 * estimator.chunk)
    share = batch / training.batch_size
    if estimator.name in ("half", "reinforce", "ddpo") and sampling.steps > LONG:
        steps = max(LONG, 2 * estimator.sub_chain_length)
        share, sampling = share * steps / sampling.steps, replace(sampling, steps=steps)
    training = replace(training, batch_size=batch, prompts_per_batch=1)
    return replace(config, estimator=estimator, sampling=sampling, training=training), share


def _settled(setup: Setup, rehearsal: Rehearsal) -> Trainer:
    """A trainer whose prompts are encoded and whose optimizer has its moments, as from the second iteration on."""
    with rehearsal.part(LORA):
        trainer = with_moments(Trainer(setup))
    trainer.batch()
    rehearsal.flops = 0
    return trainer


def with_moments(trainer: Trainer) -> Trainer:
    """The trainer after a step of its optimizer that changes nothing."""
    for parameter in trainer.setup.lora.parameters:
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return trainer


def _paint(setup: Setup, config: RunConfig) -> None:
    """The pictures of a preview or an evaluation that are painted together."""
    count = min(config.memory.painted, max(config.output.previews, config.output.evaluation))
    prompts = [setup.held_out_prompts[0]] * count
    images = setup.painter(prompts, range(count))
    assert isinstance(images, torch.Tensor), "a rehearsal is of one size"
    for reward in (setup.held_out, setup.reward, *setup.watched.values()):
        score(reward, images.to(META), [prompt.scored for prompt in prompts])


def _together(setup: Setup) -> torch.nn.ModuleList:
    rewards = [setup.reward, setup.held_out, *setup.watched.values()]
    networks = [network for reward in rewards for network in reward.networks]
    return torch.nn.ModuleList(networks)


def _bytes(network: torch.nn.Module) -> int:
    """Of its frozen tensors: a LoRA in it does not count."""
    tensors = [tensor for tensor in (*network.parameters(), *network.buffers()) if not tensor.requires_grad]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
