"""Settings that save memory: the same gradient, or one that is close enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

import runs

from rlr_core.chain import Denoiser, Level, Prediction
from rlr_core.config import RunConfig, load
from rlr_core.embedded import DEMO
from rlr_core.errors import ConfigError
from rlr_core.estimators.gain import TARGET, Gain
from rlr_core.models import savings
from rlr_core.trainer import Iteration, Setup, Trainer, prepare


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


def gradients(config: RunConfig) -> dict[str, Tensor]:
    """Part → gradient of one batch, at a LoRA that has an effect."""
    setup = ready(config)
    return {
        k: part.gradient for k, part in setup.estimator(setup.problem, Trainer(setup).batch()).parts.items()
    }


def ready(config: RunConfig) -> Setup:
    setup, generator = prepare(config), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in setup.lora.parameters[1::2]:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return setup


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))


# the same gradient

PARTS: dict[str, dict[str, Any]] = {
    "lookahead": {
        "estimator__name": "lookahead",
        "estimator__sub_chain_length": 2,
        "estimator__unit": False,
    },
    "rlr": {"estimator__name": "rlr", "estimator__first_order_steps": 2, "estimator__sub_chain_length": 2},
}


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("chunk", [1, 2])
def test_micro_batches_have_the_same_gradient(workshop, parts, chunk) -> None:
    settings = {**PARTS[parts], "sampling__steps": 5}
    whole = gradients(runs.config(workshop, estimator__chunk=4, **settings))
    split = gradients(runs.config(workshop, estimator__chunk=chunk, **settings))
    for name, gradient in whole.items():
        assert torch.allclose(split[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())), name


@pytest.mark.parametrize(
    "saving",
    [
        {"memory__checkpoint_denoiser": True},
        {"memory__decoder": "rerun"},
        {"memory__decoder": "slices"},
        {"memory__offload": "text"},
        {"memory__offload": "all"},
        {"memory__checkpoint_denoiser": True, "memory__decoder": "slices", "memory__offload": "all"},
    ],
    ids=str,
)
def test_a_saving_leaves_the_gradient_as_it_is(workshop, saving) -> None:
    settings = {**PARTS["rlr"], "sampling__steps": 5, "estimator__chunk": 2}
    plain, saved = (gradients(runs.config(workshop, **settings, **more)) for more in ({}, saving))
    for name, gradient in plain.items():
        assert torch.allclose(saved[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())), name


def test_guests_are_on_the_card_only_while_they_are_used() -> None:
    home, card = torch.nn.Linear(2, 2), torch.device("meta")
    guests = savings.Guests(card)
    call = guests.invited([home], lambda x: (home.weight.device.type, x))
    assert home.weight.device.type == "cpu"
    assert call(3) == ("meta", 3) and call(4) == ("meta", 4) and len(guests.present) == 1


# lower precision


def test_a_gradient_too_small_for_float16_comes_through() -> None:
    weight = torch.randn(50, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def slope(gain: Gain) -> Tensor:
        latents = gain.through((weight.half() * 3).float())
        (gradient,) = torch.autograd.grad((latents * 1e-9).sum(), weight)
        return gain.undone(gradient)

    class Off(Gain):
        def choose(self, largest: float) -> None: ...

    assert slope(Off()).abs().max() == 0
    assert torch.allclose(slope(Gain()), torch.full((50,), 3e-9), rtol=1e-3)


@pytest.mark.parametrize("largest", [1e-12, 1.0, 1e6])
def test_a_gain_is_a_power_of_two(largest) -> None:
    gain = Gain()
    gain.choose(largest)
    assert torch.tensor(gain.value).log2() % 1 == 0 and TARGET / 2 <= gain.value * largest <= TARGET * 2


@pytest.mark.parametrize("largest", [0.0, float("inf"), float("nan")])
def test_a_gain_of_nothing_usable_is_one(largest) -> None:
    gain = Gain(4.0)
    gain.choose(largest)
    assert gain.value == 1


def test_a_lora_is_not_rounded_twice(workshop) -> None:
    both = {"model__precision": "bfloat16", "memory__autocast": "bfloat16"}
    with pytest.raises(ConfigError, match=r"rounds the LoRA(.|\n)*memory\.autocast=off"):
        prepare(runs.config(workshop, **both))


def demo(*settings: str) -> RunConfig:
    return load(DEMO, ["model.threads=1", "model.device=cpu", *settings])


@dataclass(frozen=True)
class Twofold:
    """Moves along the chain in float32, and is rounded where it is differentiated: both see the same latents."""

    exact: Denoiser
    rounded: Denoiser

    def __call__(self, x: Tensor, level: Level, conditioning: Mapping[str, Tensor]) -> Prediction:
        return (self.rounded if torch.is_grad_enabled() else self.exact)(x, level, conditioning)


def cosines(way: str, pictures: int, *settings: str) -> dict[str, Tensor]:
    """Part → cosines (pictures,) of each picture's gradient, rounded in this `way`, with float32's at the same latents."""
    settings = ("sampling.steps=6", "training.batch_size=1", "training.prompts_per_batch=1", *settings)
    exact, rounded = ready(demo(*settings)), ready(demo(*settings, way))
    problem = replace(rounded.problem, denoiser=Twofold(exact.problem.denoiser, rounded.problem.denoiser))
    trainer, found = Trainer(exact), []
    for trainer.iteration in range(pictures):
        batch = trainer.batch()
        both = exact.estimator(exact.problem, batch).parts, rounded.estimator(problem, batch).parts
        found.append([cosine(both[0][name].gradient, both[1][name].gradient) for name in both[0]])
    return dict(zip(both[0], torch.tensor(found).T, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "pictures"),
    [
        ("memory.autocast=bfloat16", 6),
        ("model.precision=bfloat16", 6),
        ("memory.autocast=float16", 3),  # for which many CPUs have no instructions
        ("model.precision=float16", 2),
    ],
)
def test_lower_precision_has_nearly_the_same_gradient(way, pictures) -> None:
    """At the embedded checkpoint, of most pictures; a few are so steep that any rounding turns their gradient."""
    found = cosines(way, pictures, "estimator.name=lookahead")
    found |= cosines(way, pictures, "estimator.name=rlr", "estimator.first_order_steps=1")
    for part, values in found.items():
        print(f"{way:26} {part:12} median {values.median():.4f}, least {values.min():.4f}")
    assert {part: values.median() > 0.99 for part, values in found.items()} == dict.fromkeys(found, True)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_in_lower_precision_stays_finite(precision) -> None:
    """Some iterations of what docs/memory.md reports 500 of."""
    chain = ["sampling.steps=3", "training.batch_size=1", "training.prompts_per_batch=1", "estimator.chunk=1"]
    trainer = Trainer(prepare(demo(*chain, f"memory.autocast={precision}")))
    done = [trainer.iterate() for _ in range(10 if precision == "bfloat16" else 4)]
    assert all(isinstance(event, Iteration) and event.gradient_norm > 0 for event in done)
