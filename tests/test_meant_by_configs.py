"""What a checkpoint's configs say is computed, as diffusers does it, or refused by name; nothing is passed over in silence."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

import diffusers
import tiny

from rlr_core.errors import CheckpointError
from rlr_core.families import SD1, SDXL
from rlr_core.models import load_model
from rlr_core.models.describing import describe_checkpoint
from rlr_core.models.model import Model
from rlr_core.models.stable_diffusion.loading.vae import _dtype as vae_dtype

MODEL, UNET, VAE = "model_index.json", "unet/config.json", "vae/config.json"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return tiny.build_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def changed(folder: Path, name: str, **values: Any) -> Path:
    """The folder with settings of one config replaced; `...` takes one out."""
    config = {**json.loads((folder / name).read_text(encoding="utf-8")), **values}
    kept = {key: value for key, value in config.items() if value is not ...}
    (folder / name).write_text(json.dumps(kept), encoding="utf-8")
    return folder


def load(path: Path, **options: Any) -> Any:
    return load_model(str(path), device="cpu", dtype=torch.float32, **options)


def levels(model: Model) -> torch.Tensor:
    """ᾱ of 20 steps."""
    return model.schedule(20).alpha ** 2


OTHERWISE = [
    (MODEL, {"scheduler": ["diffusers", "EDMDPMSolverMultistepScheduler"]}, "other noise levels"),
    (SCHEDULER, {"_class_name": "EDMDPMSolverMultistepScheduler"}, "other noise levels"),
    (SCHEDULER, {"_class_name": "EDMEulerScheduler"}, "other noise levels"),
    (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "other noise levels"),
    (SCHEDULER, {"_class_name": "CogVideoXDDIMScheduler"}, "other noise levels"),
    (SCHEDULER, {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "flow matching"),
    (SCHEDULER, {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "EDM"),
    (SCHEDULER, {"beta_schedule": "sigmoid"}, "another course"),
    (SCHEDULER, {"thresholding": True}, "thresholding"),
    (SCHEDULER, {"snr_shift_scale": 3.0}, "shifted"),
    (UNET, {"_class_name": "UNetMotionModel"}, "another kind of network"),
    (UNET, {"time_cond_proj_dim": 256}, "guidance scale"),
    (UNET, {"num_class_embeds": 10}, "a class"),
    (UNET, {"attention_type": "gated"}, "GLIGEN"),
    (UNET, {"encoder_hid_dim": 16}, "the text"),
    (UNET, {"encoder_hid_dim_type": "image_proj"}, "encoder_hid_dim_type"),
    (UNET, {"addition_embed_type": "image"}, "addition_embed_type"),
    (SCHEDULER, {"use_dynamic_shifting": True}, "flow matching"),
    (VAE, {"_class_name": "AutoencoderKLTemporalDecoder"}, "another kind of VAE"),
    (VAE, {"shift_factor": 0.1159}, "shifted"),
]


@pytest.mark.parametrize(("file", "values", "message"), OTHERWISE, ids=lambda value: str(value)[:40])
def test_what_means_something_else_is_refused_by_name(folder, file, values, message):
    """By what describes a checkpoint and by what loads it."""
    changed(folder, file, **values)
    for look in (describe_checkpoint, load):
        with pytest.raises(CheckpointError, match=message) as caught:
            look(folder)
        assert str(folder / file) in str(caught.value) and list(values)[-1] in str(caught.value)


HARMLESS = [
    {"thresholding": False, "timestep_type": "discrete", "use_flow_sigmas": False, "snr_shift_scale": 1.0},
    {"_class_name": ...},
]


@pytest.mark.parametrize("values", HARMLESS, ids=str)
def test_settings_that_mean_what_is_done_change_nothing(folder, whole, values):
    changed(changed(folder, SCHEDULER, **values), VAE, shift_factor=None, latents_mean=None)
    assert torch.equal(levels(load(folder)), levels(load(whole)))


@pytest.mark.parametrize(
    "name",
    [
        "DDIM",
        "DDPM",
        "LCM",
        "TCD",
        "HeunDiscrete",
        "KDPM2Discrete",
        "DPMSolverMultistep",
        "EulerDiscrete",
        "PNDM",
    ],
)
def test_levels_that_a_config_leaves_out_are_those_of_its_scheduler(folder, name):
    left_out = dict.fromkeys(("beta_start", "beta_end", "beta_schedule", "num_train_timesteps"), ...)
    changed(folder, SCHEDULER, _class_name=f"{name}Scheduler", **left_out)
    theirs = getattr(diffusers, f"{name}Scheduler")()
    assert torch.equal(load(folder)._scheduler.alphas_cumprod, theirs.alphas_cumprod)


def test_betas_that_are_too_few_are_refused(folder):
    changed(folder, SCHEDULER, trained_betas=[0.1, 0.2])
    with pytest.raises(CheckpointError, match="2 trained_betas for 1000 timesteps"):
        load(folder)


def test_latents_with_a_mean_are_decoded_as_diffusers_does(folder, whole):
    """diffusers' XL pipeline: latents · std / scaling_factor + mean, before its VAE."""
    mean, spread = [0.5, -0.2, 0.1, 2.0], [1.5, 0.5, 2.0, 1.0]
    changed(folder, VAE, latents_mean=mean, latents_std=spread)
    latents, vae = torch.randn(2, 4, 8, 8), diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    columns = [torch.tensor(values).view(1, 4, 1, 1) for values in (mean, spread)]
    with torch.no_grad():
        expected = vae.decode(latents * columns[1] / vae.config.scaling_factor + columns[0]).sample
        found = load(folder).decode(latents)
    torch.testing.assert_close(found, (expected / 2 + 0.5).clamp(0, 1), atol=1e-6, rtol=0)
    assert not torch.allclose(found, load(whole).decode(latents), atol=0.01)


@pytest.mark.parametrize(
    "values",
    [{"latents_mean": [0.0] * 4}, {"latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}],
    ids=["mean alone", "16 channels"],
)
def test_a_vae_of_other_latents_is_refused(folder, values):
    changed(folder, VAE, **values)
    with pytest.raises(CheckpointError, match="choose a VAE of the checkpoint's family"):
        load(folder)


def test_a_vae_of_sixteen_channels_is_refused_before_it_paints(whole, tmp_path):
    """As FLUX and Stable Diffusion 3 have it."""
    config = {**diffusers.AutoencoderKL.load_config(whole / "vae"), "latent_channels": 16}
    diffusers.AutoencoderKL.from_config(config).save_pretrained(tmp_path / "vae")
    with pytest.raises(CheckpointError, match="16 latent channels"):
        load(whole, vae=str(tmp_path / "vae"))


def test_what_is_not_known_or_not_done_is_said(folder):
    changed(folder, SCHEDULER, _class_name="DPMSolverMultistepScheduler", use_karras_sigmas=True)
    changed(folder, UNET, brand_new=1)
    with pytest.warns(UserWarning) as caught:
        load(folder)
    texts = " ".join(str(each.message) for each in caught)
    assert "nothing is known of unet.brand_new" in texts and "use_karras_sigmas" in texts


@pytest.mark.parametrize("setting", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_levels_that_only_samplers_have_are_said(folder, whole, setting):
    changed(
        folder,
        SCHEDULER,
        _class_name="DPMSolverMultistepScheduler",
        timestep_spacing="leading",
        **{setting: True},
    )
    with pytest.warns(UserWarning, match=setting):
        model = load(folder)
    assert torch.equal(levels(model), levels(load(whole)))


def test_betas_of_a_config_are_the_noise_levels(folder):
    betas = torch.linspace(1e-4, 0.03, 1000, dtype=torch.float64)
    model = load(changed(folder, SCHEDULER, trained_betas=betas.tolist()))
    expected = (1 - betas).cumprod(0)
    found = levels(model)[:-1]
    assert all(bool(((expected - each).abs() < 1e-5).any()) for each in found.double())


def test_the_vae_of_xl_computes_in_float32_where_it_would_overflow():
    """Its config says `force_upcast`; those that were mended for half precision say false."""
    half, bfloat = torch.float16, torch.bfloat16
    assert vae_dtype(SDXL, True, half) == torch.float32 and vae_dtype(SDXL, False, half) == half
    assert vae_dtype(SDXL, True, bfloat) == bfloat and vae_dtype(SD1, True, half) == half


def test_a_usual_folder_says_nothing(whole):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(whole)


# zero terminal SNR


def rescaled() -> Any:
    """diffusers' own."""
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    made = diffusers.DDIMScheduler(**config, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    made.set_timesteps(20)
    return made


def test_zero_terminal_snr_can_be_set_and_taken_back(folder):
    model = load(folder, prediction="v_prediction", zero_snr="yes")
    theirs = rescaled()
    assert model.schedule(20).time[:-1].tolist() == theirs.timesteps.tolist()
    torch.testing.assert_close(levels(model)[:-1], theirs.alphas_cumprod[theirs.timesteps].double())
    assert levels(model)[0] == 0
    changed(folder, SCHEDULER, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    assert levels(load(folder, zero_snr="no"))[0] > 0


@pytest.mark.parametrize("given", [{"zero_snr": "yes"}, {}])
def test_noise_alone_cannot_be_told_by_its_noise(folder, given):
    """x̂ = (x − σ·ε̂)/α, and α is 0."""
    if not given:
        changed(folder, SCHEDULER, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(CheckpointError, match="zero terminal SNR with a network that predicts the noise"):
        load(folder, **given)
