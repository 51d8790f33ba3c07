"""The Stable Diffusion adapter against diffusers' own pipeline and scheduler, and its errors."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from tiny import CONTEXT, build_checkpoint

from rlr_core.chain import Chain, Conditioning, Level, SampleNoise, rollout
from rlr_core.errors import CheckpointError, ConfigError
from rlr_core.families import SD1, SD2
from rlr_core.models import StableDiffusion, load_model
from rlr_core.models.describing import describe_checkpoint
from rlr_core.models.stable_diffusion.text_conditioning import TextConditioning

PROMPTS = ["red cat", "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def model(folder) -> StableDiffusion:
    return load(folder)


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "a checkpoint – Größe"))


def load(folder: Path, dtype: torch.dtype = torch.float32) -> StableDiffusion:
    return load_model(str(folder), device="cpu", dtype=dtype)


@torch.no_grad()
def paint(
    model: StableDiffusion,
    start: torch.Tensor,
    *,
    steps: int = 6,
    guidance: float = 3.0,
    negative: str = "bad",
):
    conditioning = Conditioning.constant(model.encode(PROMPTS, [negative] * len(PROMPTS)), steps)
    noise = SampleNoise([0, 1], model.latent_shape(None), torch.float32, "cpu")
    chain = Chain(model.denoiser(guidance), model.schedule(steps), conditioning, noise, 0.0)
    latents, _ = rollout(chain, start, torch.arange(2), range(steps))
    return model.decode(latents)


@torch.no_grad()
def paint_with_diffusers(folder: Path, start: torch.Tensor, *, steps: int = 6, guidance: float = 3.0):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS,
        negative_prompt=["bad"] * 2,
        latents=start,
        num_inference_steps=steps,
        guidance_scale=guidance,
        eta=0.0,
        output_type="pt",
    ).images


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_pictures_equal_those_of_diffusers_pipeline(folder, model, guidance):
    start = torch.randn(2, *model.latent_shape(None))
    pictures = paint(model, start, guidance=guidance)
    expected = paint_with_diffusers(folder, start, guidance=guidance)
    assert pictures.shape == (2, 3, 16, 16) and pictures.dtype == torch.float32
    torch.testing.assert_close(pictures, expected, atol=5e-6, rtol=0)
    assert expected.std() > 0.05


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_other_predictions_equal_diffusers_too(tmp_path, prediction):
    folder = build_checkpoint(tmp_path / prediction, scheduler={"prediction_type": prediction})
    model = load(folder)
    assert model.prediction_type == prediction
    start = torch.randn(2, *model.latent_shape(None))
    torch.testing.assert_close(paint(model, start), paint_with_diffusers(folder, start), atol=1e-5, rtol=0)


def test_every_sample_is_denoised_at_its_own_timestep(model):
    denoiser, x = model.denoiser(2.0), torch.randn(2, *model.latent_shape(None))
    schedule, conditioning = model.schedule(10), model.encode(PROMPTS, [""] * len(PROMPTS))
    both = denoiser(x, schedule.level(torch.tensor([2, 7])), conditioning)
    for row, step in enumerate([2, 7]):
        rows = {name: value[row : row + 1] for name, value in conditioning.items()}
        single = denoiser(x[row : row + 1], schedule.level(torch.tensor([step])), rows)
        torch.testing.assert_close(single.noise, both.noise[row : row + 1], atol=1e-5, rtol=1e-4)


SCHEDULERS = [
    {},
    {"set_alpha_to_one": True},
    {"steps_offset": 0},
    {"timestep_spacing": "trailing", "set_alpha_to_one": True},
    {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    {"timestep_spacing": "linspace"},
    {"beta_schedule": "linear", "num_train_timesteps": 200},
]


@pytest.mark.parametrize("config", SCHEDULERS, ids=str)
@pytest.mark.parametrize("steps", [1, 7, 20, 200])
def test_schedule_is_that_of_ddim(model, config, steps):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler.from_config({**model._scheduler.config, **config})
    theirs.set_timesteps(steps)
    model = StableDiffusion(
        name="",
        family=SD1,
        unet=None,
        vae=None,
        text=TextConditioning([]),
        scheduler=DDIMScheduler.from_config(theirs.config),
    )
    if theirs.timesteps[0] >= theirs.config.num_train_timesteps:
        with pytest.raises(ConfigError, match="200 training timesteps"):
            model.schedule(steps)
        return
    own = model.schedule(steps)
    assert own.time[:-1].tolist() == theirs.timesteps.tolist()
    expected = theirs.alphas_cumprod[theirs.timesteps].double()
    torch.testing.assert_close(own.alpha[:-1] ** 2, expected, atol=1e-12, rtol=1e-9)
    last = int(theirs.timesteps[-1])
    theirs_last = theirs.step(torch.zeros(1), last, torch.ones(1)).prev_sample
    ratio = float(own.alpha[-1] / own.alpha[-2]) if own.alpha[-2] else None
    if ratio is not None and theirs.config.prediction_type == "epsilon":
        assert float(theirs_last) == pytest.approx(ratio, rel=1e-5)


def test_a_pndm_config_gives_ddim_timesteps(copy):
    file = copy / "scheduler" / "scheduler_config.json"
    config = {
        **json.loads(file.read_text(encoding="utf-8")),
        "_class_name": "PNDMScheduler",
        "skip_prk_steps": True,
    }
    config.pop("timestep_spacing")
    file.write_text(json.dumps(config), encoding="utf-8")
    assert load(copy).schedule(10).time[:-1].tolist() == list(range(901, 0, -100))


@pytest.mark.parametrize("steps", [0, 1000, 1001])
def test_too_many_steps(model, steps):
    with pytest.raises(ConfigError, match=f"sampling.steps = {steps}"):
        model.schedule(steps)


def test_texts_are_encoded_once_and_without_their_neighbours(folder):
    model = load(folder)
    calls = []
    model.tokens.networks["text_encoder"].register_forward_hook(lambda *_: calls.append(1))
    first = model.encode(["cat", "dog", "cat"], ["bad"] * 3)
    assert first["text"].shape == first["negative_text"].shape == (3, CONTEXT, 16)
    assert not first["text"].requires_grad
    assert len(calls) == 3
    second = model.encode(["dog"], ["bad"])
    assert len(calls) == 3
    assert torch.equal(second["text"][0], first["text"][1])
    assert torch.equal(first["text"][0], first["text"][2])


def test_a_long_prompt_warns_naming_the_lost_words(folder):
    model = load(folder)
    with pytest.warns(
        UserWarning, match="a prompt of 12 tokens is longer than 10 tokens: 'k l' is lost"
    ) as caught:
        model.encode(["a b c d e f g h i j k l"], [""])
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(["a b c d e f g h i j k l"], [""])
        model.encode(["a b c d e f g h i j"], [""])


def test_the_model_is_frozen(model):
    for network in (each.network for each in model.components):
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())


def test_decode_is_differentiable_where_it_does_not_clamp(model):
    latents = torch.randn(1, *model.latent_shape(None), requires_grad=True)
    images = model.decode(latents)
    assert images.min() >= 0 and images.max() <= 1
    (gradient,) = torch.autograd.grad(images.sum(), latents)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_with_float32_latents(folder, model, dtype):
    half = load(folder, dtype)
    assert half.unet.dtype == dtype
    start = torch.randn(2, *model.latent_shape(None))
    pictures = paint(half, start)
    assert pictures.dtype == torch.float32
    torch.testing.assert_close(pictures, paint(model, start), atol=0.1, rtol=0)


def test_half_precision_files_are_found(folder, copy):
    for stem, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (copy / stem / f"{name}.safetensors").rename(copy / stem / f"{name}.fp16.safetensors")
    start = torch.randn(2, 4, 8, 8)
    assert torch.equal(paint(load(copy), start), paint(load(folder), start))


def test_sharded_weights_are_found(folder, copy):
    from diffusers import UNet2DConditionModel

    whole = copy / "unet" / "diffusion_pytorch_model.safetensors"
    UNet2DConditionModel.from_pretrained(copy / "unet").save_pretrained(copy / "unet", max_shard_size="300KB")
    whole.unlink(missing_ok=True)
    shards = sorted((copy / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    start = torch.randn(2, 4, 8, 8)
    assert torch.equal(paint(load(copy), start), paint(load(folder), start))
    truncate(shards[-1])
    with pytest.raises(CheckpointError, match=f"{shards[-1].name} is damaged"):
        load(copy)


def test_latent_shape(model):
    assert model.latent_shape(None) == (4, 8, 8)
    assert model.latent_shape((32, 32)) == (4, 16, 16)
    assert model.latent_shape((24, 40)) == (4, 20, 12), "height before width"
    with pytest.raises(ConfigError, match=r"sampling.size = 17 × 17[\s\S]*multiples of 2[\s\S]*size = 16"):
        model.latent_shape((17, 17))
    with pytest.raises(ConfigError, match=r"sampling.size = 24 × 33[\s\S]*size = \[24, 32\]"):
        model.latent_shape((24, 33))


def test_names_and_metadata(model):
    assert model.name == "tiny"
    facts = model.lora_metadata()
    assert facts["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert facts["modelspec.resolution"] == "16x16"
    assert facts["ss_base_model_version"] == "sd_v1"
    assert all(isinstance(value, str) for value in facts.values())


@pytest.mark.parametrize(
    ("velocity", "version", "architecture"),
    [
        (False, "sd_v2", "stable-diffusion-v2-512/lora"),
        (True, "sd_v2_v", "stable-diffusion-v2-768-v/lora"),
    ],
)
def test_metadata_of_second_generation(model, monkeypatch, velocity, version, architecture):
    from types import SimpleNamespace

    config = SimpleNamespace(cross_attention_dim=1024, sample_size=(8, 16))
    prediction = "v_prediction" if velocity else "epsilon"
    second = StableDiffusion(
        name="two",
        family=SD2,
        unet=SimpleNamespace(config=config),
        vae=model.vae,
        text=TextConditioning([]),
        scheduler=SimpleNamespace(config=SimpleNamespace(prediction_type=prediction)),
    ).lora_metadata()
    assert (second["ss_base_model_version"], second["modelspec.architecture"]) == (version, architecture)
    assert second["ss_v2"] == "True" and second["modelspec.resolution"] == "32x16"


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def edit_json(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def only_pickle(checkpoint: Path) -> None:
    (checkpoint / "vae" / "diffusion_pytorch_model.safetensors").rename(
        checkpoint / "vae" / "diffusion_pytorch_model.bin"
    )


def drop_tensor(checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state.pop("conv_in.weight")
    save_file(state, file)


UNET = "diffusion_pytorch_model.safetensors"
DAMAGE = {
    "no model_index.json": (lambda c: (c / "model_index.json").unlink(), r"has no model_index\.json"),
    "no JSON": (
        lambda c: (c / "model_index.json").write_text("{", encoding="utf-8"),
        r"model_index\.json is not JSON",
    ),
    "a list": (lambda c: (c / "model_index.json").write_text("[]", encoding="utf-8"), "holds a list"),
    "other pipeline": (
        lambda c: edit_json(c / "model_index.json", _class_name="FluxPipeline"),
        "is a checkpoint for FluxPipeline",
    ),
    "no vae": (lambda c: shutil.rmtree(c / "vae"), "has no 'vae' folder"),
    "no config": (lambda c: (c / "unet" / "config.json").unlink(), r"unet.config\.json cannot be read"),
    "no weights": (lambda c: (c / "unet" / UNET).unlink(), "unet has no weights"),
    "only pickle": (only_pickle, r"only as diffusion_pytorch_model\.bin"),
    "truncated": (lambda c: truncate(c / "unet" / UNET), rf"unet.{UNET} is damaged or incomplete"),
    "empty": (
        lambda c: (c / "text_encoder" / "model.safetensors").write_bytes(b""),
        "model.safetensors is damaged",
    ),
    "garbage": (lambda c: (c / "vae" / UNET).write_bytes(b"x" * 5000), f"vae.{UNET} is damaged"),
    "missing tensor": (drop_tensor, r"unet lack 1 of the network's tensors, such as conv_in\.weight"),
    "wrong shapes": (
        lambda c: edit_json(c / "unet" / "config.json", cross_attention_dim=24),
        "unet cannot be loaded",
    ),
    "no vocabulary": (
        lambda c: [file.unlink() for file in (c / "tokenizer").glob("*.*") if "config" not in file.name],
        "tokenizer has no vocabulary",
    ),
    "odd tokenizer": (
        lambda c: [file.write_text("{", encoding="utf-8") for file in (c / "tokenizer").glob("*.json")],
        "tokenizer cannot be loaded",
    ),
    "no scheduler": (
        lambda c: (c / "scheduler" / "scheduler_config.json").unlink(),
        "scheduler_config.json cannot",
    ),
    "odd scheduler": (
        lambda c: edit_json(c / "scheduler" / "scheduler_config.json", beta_schedule="odd"),
        "says beta_schedule = odd: another course",
    ),
    "inpainting": (
        lambda c: edit_json(c / "unet" / "config.json", in_channels=9),
        "is an inpainting checkpoint",
    ),
    "other channels": (lambda c: edit_json(c / "unet" / "config.json", in_channels=8), "not a text-to-image"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_checkpoints_say_what_and_where(copy, name):
    damage, message = DAMAGE[name]
    damage(copy)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(copy)
    assert "expected: " in str(caught.value) and "what to do: " in str(caught.value)
    assert "a checkpoint – Größe" in str(caught.value)


def test_a_missing_path(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        load(tmp_path / "absent")


def test_denoiser_computes_in_the_dtype_of_the_latents(model):
    level = Level(*(torch.tensor([value]) for value in (0.8, 0.6, 500)))
    conditioning = {"text": model.encode(["cat"], [""])["text"]}
    prediction = model.denoiser(1.0)(torch.randn(1, 4, 8, 8, dtype=torch.float64), level, conditioning)
    assert prediction.sample.dtype == torch.float64


def pickle_all(checkpoint: Path) -> None:
    """As old checkpoints have it: diffusers' and transformers' names for pickled weights."""
    from safetensors.torch import load_file

    for name, file in {"unet": UNET, "vae": UNET, "text_encoder": "model.safetensors"}.items():
        weights = checkpoint / name / file
        target = "pytorch_model.bin" if name == "text_encoder" else "diffusion_pytorch_model.bin"
        torch.save(load_file(weights), checkpoint / name / target)
        weights.unlink()


class Malicious:
    """Unpickling it would make a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_pickled_folder_is_read_where_that_is_allowed(folder, model, tmp_path):
    checkpoint = shutil.copytree(folder, tmp_path / "old")
    pickle_all(checkpoint)
    with pytest.raises(
        CheckpointError, match=r"only as diffusion_pytorch_model\.bin[\s\S]*model\.allow_pickle = true"
    ):
        load_model(str(checkpoint), device="cpu", dtype=torch.float32)
    read = load_model(str(checkpoint), device="cpu", dtype=torch.float32, allow_pickle=True)
    for mine, theirs in zip(read.components, model.components, strict=True):
        state = theirs.network.state_dict()
        assert all(torch.equal(state[name], value) for name, value in mine.network.state_dict().items())
    assert describe_checkpoint(checkpoint, allow_pickle=True).precision == "not told by a pickled file"


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_nothing_but_weights_is_read_from_a_pickled_folder(folder, tmp_path, component):
    checkpoint = shutil.copytree(folder, tmp_path / "old")
    pickle_all(checkpoint)
    (file,) = (checkpoint / component).glob("*.bin")
    torch.save({**torch.load(file), "x": Malicious(tmp_path / "harm")}, file)
    with pytest.raises(CheckpointError, match=f"{component} cannot be loaded"):
        load_model(str(checkpoint), device="cpu", dtype=torch.float32, allow_pickle=True)
    assert not (tmp_path / "harm").exists()
