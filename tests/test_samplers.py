"""Diffusers' samplers around our denoiser: equal to our own chain where they mean the same, and to diffusers' pipeline."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

import diffusers
import tiny

from rlr_core.chain import SampleNoise, variance_exploding
from rlr_core.config import InferenceConfig, SamplingConfig
from rlr_core.dcot import StageSettings, parse_line, plain
from rlr_core.errors import ConfigError
from rlr_core.models import load_model
from rlr_core.models.samplers import SAMPLERS
from rlr_core.trainer import painter

PROMPTS, SEEDS = ["red cat", "dog"], [3, 4]
PLAIN = plain(PROMPTS)


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("checkpoint")
    return tiny.build_checkpoint(root / "tiny", scheduler={"prediction_type": request.param})


def load(folder: Path):
    return load_model(str(folder), device="cpu", dtype=torch.float32)


def test_ddim_is_our_chain_without_noise(folder):
    model = load(folder)
    sampling = SamplingConfig(steps=7, eta=0.0)
    chain = painter(model, sampling)(PLAIN, SEEDS)
    ddim = painter(model, sampling, InferenceConfig(sampler="ddim"))(PLAIN, SEEDS)
    torch.testing.assert_close(ddim, chain, atol=1e-5, rtol=0)
    assert not torch.equal(ddim[0], ddim[1])


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "euler_a"])
def test_pictures_are_those_of_diffusers_pipeline(sampler, folder):
    """Same start, steps and guidance; theirs predicts as the checkpoint does, ours is told noise."""
    model = load(folder)
    paint = painter(
        model,
        SamplingConfig(),
        InferenceConfig(sampler=sampler, steps=6, guidance_scale=2.5),
        stages=StageSettings(negative="bad"),
    )
    ours = paint(PLAIN, SEEDS)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = getattr(diffusers, SAMPLERS[sampler]).from_config(pipe.scheduler.config)
    start = _start(model)
    settings = {"num_inference_steps": 6, "guidance_scale": 2.5, "output_type": "pt"}
    theirs = pipe(PROMPTS, negative_prompt=["bad"] * 2, latents=start, **settings).images
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def _start(model) -> torch.Tensor:
    return SampleNoise(SEEDS, model.latent_shape(None), torch.float32, "cpu").initial()


def test_the_chain_of_a_path_that_explodes_starts_wide(folder, monkeypatch):
    model, shown = load(folder), []
    schedule = variance_exploding(torch.tensor([14.6, 3.0, 0.0]))
    monkeypatch.setattr(type(model), "schedule", lambda self, steps, size: schedule)
    with model.unet.register_forward_pre_hook(lambda network, given: shown.append(given[0])):
        painter(model, SamplingConfig(steps=2, guidance_scale=1.0))(PLAIN, SEEDS)
    torch.testing.assert_close(shown[0], math.sqrt(1 + 14.6**2) * _start(model))


def test_ancestral_noise_belongs_to_the_picture(folder):
    """A picture depends on its own seed only, not on its neighbours."""
    paint = painter(load(folder), SamplingConfig(steps=5), InferenceConfig(sampler="euler_a"))
    both = paint(PLAIN, SEEDS)
    torch.testing.assert_close(paint(PLAIN[1:], SEEDS[1:])[0], both[1], atol=1e-5, rtol=0)
    assert not torch.equal(paint(PLAIN[1:], [99])[0], both[1])


def test_steps_and_guidance_may_differ_from_training(folder):
    model = load(folder)
    settled = painter(model, SamplingConfig(steps=9), InferenceConfig(steps=4, guidance_scale=1.0))
    (canvas,) = settled.canvases
    assert (settled.sampling.steps, settled.sampling.guidance_scale) == (4, 1.0)
    assert canvas.sampler is None and canvas.schedule.steps == 4
    same = painter(model, SamplingConfig(steps=9))
    assert same.sampling == SamplingConfig(steps=9)


@pytest.mark.parametrize("sampler", ["chain", "euler"])
def test_a_prompt_may_be_shown_in_its_own_way(folder, sampler):
    model, given = load(folder), InferenceConfig(sampler=sampler)
    said = [*PLAIN, parse_line("a b --w 32 --h 16 --s 3 --l 1.5 --n bad"), parse_line("a b --l 1")]
    sizes, together = (
        [(16, 16), (16, 32)],
        painter(model, SamplingConfig(steps=5, size=[[16, 16], [16, 32]]), given),
    )
    pictures = together(said, [*SEEDS, 7, 8])
    assert [tuple(each.shape[1:]) for each in pictures] == [(16, 16), (32, 16), (16, 32), (32, 16)]
    for number in range(2):
        alone = painter(model, SamplingConfig(steps=5, size=list(sizes[number])), given)
        torch.testing.assert_close(
            pictures[number], alone(PLAIN[number : number + 1], SEEDS[number : number + 1])[0]
        )
    own = SamplingConfig(steps=3, guidance_scale=1.5, size=[32, 16])
    alone = painter(model, own, given, stages=StageSettings(negative="bad"))
    torch.testing.assert_close(pictures[2], alone(plain(["a b"]), [7])[0])
    alone = painter(model, SamplingConfig(steps=5, guidance_scale=1.0, size=[16, 32]), given)
    torch.testing.assert_close(pictures[3], alone(plain(["a b"]), [8])[0])


def test_too_many_steps_are_refused_before_painting(folder):
    for sampler in ("chain", "ddim"):
        with pytest.raises(ConfigError, match="steps"):
            painter(load(folder), SamplingConfig(), InferenceConfig(sampler=sampler, steps=5000))
