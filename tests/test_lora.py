"""LoRA: injected and ejected without a trace, saved as hosts read it, loaded to the last bit."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import loras
import pytest
import torch
from tiny import build_checkpoint

from rlr_core.chain import Chain, Conditioning, SampleNoise, rollout
from rlr_core.config import LoraConfig
from rlr_core.errors import CheckpointError, ConfigError, StorageError
from rlr_core.families import SD1
from rlr_core.lora import InjectedLora, inject, load_lora, write_lora
from rlr_core.models import StableDiffusion, load_model

TARGETS = ["attention", "attention+feedforward", "all"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture
def model(folder) -> StableDiffusion:
    return load(folder)


@pytest.fixture
def lora(model) -> InjectedLora:
    return trained(inject(model, LoraConfig(rank=4, alpha=2.7), 5))


def load(folder: Path, dtype: torch.dtype = torch.float32) -> StableDiffusion:
    return load_model(str(folder), device="cpu", dtype=dtype)


def trained(lora: InjectedLora) -> InjectedLora:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in lora.parameters:
            p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    return lora


@torch.no_grad()
def predict(unet) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 12, 16, generator=generator)
    return unet(x.to(unet.dtype), torch.tensor([3, 700]), text.to(unet.dtype)).sample


@torch.no_grad()
def paint(model: StableDiffusion, start: torch.Tensor) -> torch.Tensor:
    conditioning = Conditioning.constant(model.encode(["red cat", "dog"], ["bad"] * 2), 4)
    noise = SampleNoise([0, 1], model.latent_shape(None), torch.float32, "cpu")
    chain = Chain(model.denoiser(3.0), model.schedule(4), conditioning, noise, 0.0)
    return model.decode(rollout(chain, start, torch.arange(2), range(4))[0])


def structure(unet) -> list[tuple[str, type, int]]:
    return [(name, type(module), id(module)) for name, module in unet.named_modules()]


@pytest.mark.parametrize("targets", TARGETS)
def test_eject_leaves_the_unet_as_it_was(model, targets):
    unet = model.unet
    before, modules, attributes = predict(unet), structure(unet), set(vars(unet))
    weights = {name: value.clone() for name, value in unet.state_dict().items()}
    lora = inject(model, LoraConfig(targets=targets), 0)
    assert torch.equal(predict(unet), before), "a new LoRA has no effect"
    trained(lora)
    assert not torch.equal(predict(unet), before)
    lora.eject()
    assert structure(unet) == modules and set(vars(unet)) == attributes
    after = unet.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert torch.equal(predict(unet), before)
    assert not any(p.requires_grad for p in unet.parameters())
    inject(model, LoraConfig(targets=targets), 0).eject()


def test_parameters_are_leaves_in_a_fixed_order(model):
    lora = inject(model, LoraConfig(rank=3, targets="all"), 0)
    assert len(lora.parameters) == 2 * len(lora.sizes)
    assert all(p.is_leaf and p.requires_grad and p.dtype == torch.float32 for p in lora.parameters)
    trainable = [p for p in model.unet.parameters() if p.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in lora.parameters}
    first = [tuple(p.shape) for p in lora.parameters]
    lora.eject()
    assert [tuple(p.shape) for p in inject(model, LoraConfig(rank=3, targets="all"), 0).parameters] == first


def test_the_start_depends_on_the_seed_alone(model):
    def start(seed: int, noise: int) -> list[torch.Tensor]:
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        lora = inject(model, LoraConfig(), seed)
        assert torch.equal(torch.get_rng_state(), state), "the global random numbers are not used"
        lora.eject()
        return [p.detach().clone() for p in lora.parameters]

    first, same, other = start(1, 10), start(1, 20), start(2, 10)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first[::2], other[::2], strict=True))
    assert not any(up.any() for up in first[1::2])
    down = first[0]
    assert 0.5 < down.abs().max() * down.shape[1] ** 0.5 <= 1


def test_targets_grow(model):
    layers = []
    for targets in TARGETS:
        lora = inject(model, LoraConfig(targets=targets), 0)
        layers.append({place.path for place in lora.sizes})
        lora.eject()
    attention, feedforward, everything = layers
    assert attention < feedforward < everything
    path = "down_blocks.0.attentions.0.transformer_blocks.0."
    assert {
        path + f"attn{i}.{name}" for i in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")
    } <= attention
    assert {
        path + "ff.net.0.proj",
        path + "ff.net.2",
        "down_blocks.0.attentions.0.proj_in",
    } <= feedforward - attention
    resnet = "up_blocks.0.resnets.0."
    convolutions = {resnet + name for name in ("conv1", "conv2", "time_emb_proj", "conv_shortcut")}
    assert convolutions | {"down_blocks.0.downsamplers.0.conv", "up_blocks.0.upsamplers.0.conv"} <= everything
    assert "conv_in" not in everything and "time_embedding.linear_1" not in everything


def test_a_unet_without_the_targets():
    with pytest.raises(ConfigError, match=r"lora\.targets = 'attention'"):
        inject(
            loras.adaptable({"unet": torch.nn.ModuleDict({"conv_in": torch.nn.Linear(2, 2)})}, "sd1"),
            LoraConfig(),
            0,
        )


def test_disabled_and_scaled(model, lora):
    with_lora = predict(model.unet)
    with lora.disabled():
        base = predict(model.unet)
    lora_off = [p.requires_grad for p in lora.parameters]
    assert all(lora_off)
    with lora.scaled(0.5):
        half = predict(model.unet)
    with lora.scaled(0.0):
        torch.testing.assert_close(predict(model.unet), base)
    assert torch.equal(predict(model.unet), with_lora)
    assert not torch.equal(half, with_lora) and not torch.equal(half, base)
    lora.eject()
    assert torch.equal(predict(model.unet), base)


def test_disabled_and_scaled_end_with_an_exception(model, lora):
    before = predict(model.unet)
    for context in (lora.disabled(), lora.scaled(2.0)):
        with pytest.raises(KeyboardInterrupt), context:
            raise KeyboardInterrupt
    assert torch.equal(predict(model.unet), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_float32_lora_in_a_half_precision_base(folder, dtype):
    model = load(folder, dtype)
    before = predict(model.unet)
    lora = inject(model, LoraConfig(), 0)
    assert torch.equal(predict(model.unet), before)
    assert all(p.dtype == torch.float32 for p in lora.parameters)
    level = model.schedule(10).level(torch.tensor([2]))
    prediction = model.denoiser(2.0)(torch.randn(1, 4, 8, 8), level, model.encode(["cat"], [""]))
    gradients = torch.autograd.grad(prediction.noise.square().sum(), lora.parameters)
    assert all(gradient.isfinite().all() and gradient.dtype == torch.float32 for gradient in gradients)
    assert any(gradient.any() for gradient in gradients[1::2])
    lora.eject()
    assert torch.equal(predict(model.unet), before)


def test_state_dict_and_back(model, lora):
    state, before = lora.state_dict(), predict(model.unet)
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
    assert state[stem + ".lora_down.weight"].shape == (4, 16)
    assert state[stem + ".lora_up.weight"].shape == (16, 4)
    assert float(state[stem + ".alpha"]) == pytest.approx(2.7)
    with torch.no_grad():
        for p in lora.parameters:
            p.zero_()
    assert any(value.any() for name, value in state.items() if "lora_up" in name), "copies, not views"
    lora.load_state_dict(state)
    assert torch.equal(predict(model.unet), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, k: s.pop(k), "0 unknown and 1 missing"),
        (lambda s, k: s.update(odd=s[k]), "1 unknown and 0 missing"),
        (lambda s, k: s.update({k: s[k][:2]}), "of shape"),
        (lambda s, k: s.update({k: s[k] * float("nan")}), "NaN or infinity"),
        (lambda s, k: s.update({k.split(".")[0] + ".alpha": torch.tensor(1.0)}), r"alpha = 1"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(model, lora, change, message):
    before, state = predict(model.unet), {name: value * 2 for name, value in lora.state_dict().items()}
    state.update({name: value / 2 for name, value in state.items() if name.endswith("alpha")})
    change(state, list(state)[-3])
    with pytest.raises(CheckpointError, match=message):
        lora.load_state_dict(state)
    assert torch.equal(predict(model.unet), before)


@pytest.mark.parametrize("targets", TARGETS)
def test_saved_and_loaded_gives_bit_identical_pictures(folder, model, tmp_path, targets):
    lora = trained(inject(model, LoraConfig(rank=3, alpha=0.7, targets=targets), 5))
    start = torch.randn(2, *model.latent_shape(None))
    expected = paint(model, start)
    file = tmp_path / "ein Größe 猫 .safetensors"
    write_lora(file, lora.weights(), {}, family=SD1.lora)
    fresh = load(folder)
    assert not torch.equal(paint(fresh, start), expected)
    loaded = load_lora(file, fresh)
    assert loaded.rank == 3 and loaded.alpha == pytest.approx(0.7) and loaded.sizes == lora.sizes
    assert torch.equal(paint(fresh, start), expected)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("targets", TARGETS)
def test_diffusers_reads_the_file_to_the_same_pictures(folder, model, tmp_path, targets):
    from diffusers import StableDiffusionPipeline

    file = tmp_path / "lora.safetensors"
    lora = trained(inject(model, LoraConfig(rank=4, alpha=2.0, targets=targets), 5))
    write_lora(file, lora.weights(), {}, family=SD1.lora)
    start = torch.randn(2, *model.latent_shape(None))
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)

    def pictures() -> torch.Tensor:
        settings = {"num_inference_steps": 4, "guidance_scale": 3.0, "eta": 0.0, "output_type": "pt"}
        return pipeline(["red cat", "dog"], negative_prompt=["bad"] * 2, latents=start, **settings).images

    base = pictures()
    pipeline.load_lora_weights(str(file))
    theirs = pictures()
    torch.testing.assert_close(theirs, paint(model, start), atol=1e-5, rtol=0)
    assert (theirs - base).abs().max() > 1e-2


def test_metadata_and_hashes(model, lora, tmp_path):
    from safetensors import safe_open

    file = tmp_path / "my lora.safetensors"
    write_lora(
        file,
        lora.weights(),
        {"rlr.reward": "härte", "ss_output_name": "given", **model.lora_metadata()},
        family=SD1.lora,
    )
    with safe_open(file, "pt") as tensors:
        facts = tensors.metadata()
        assert tensors.get_tensor(next(iter(tensors.keys()))).dtype == torch.float32
    data = file.read_bytes()
    header = int.from_bytes(data[:8], "little")
    digest = hashlib.sha256(data[8 + header :]).hexdigest()
    expected = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "2.7",
        "ss_network_args": "{}",
        "ss_output_name": "given",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_sd_model_name": "tiny",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": "my lora",
        "modelspec.resolution": "16x16",
        "rlr.reward": "härte",
        "sshs_model_hash": digest,
        "modelspec.hash_sha256": "0x" + digest,
    }
    assert expected.items() <= facts.items()


def test_convolutions_are_named_in_the_metadata_and_half_files_can_be_written(model, tmp_path):
    from safetensors import safe_open

    file = tmp_path / "all.safetensors"
    lora = trained(inject(model, LoraConfig(rank=2, alpha=1.0, targets="all"), 0))
    write_lora(file, lora.weights(), {}, family=SD1.lora, dtype=torch.float16)
    with safe_open(file, "pt") as tensors:
        assert json.loads(tensors.metadata()["ss_network_args"]) == {"conv_dim": "2", "conv_alpha": "1"}
        assert all(
            tensors.get_tensor(name).dtype == (torch.float32 if name.endswith("alpha") else torch.float16)
            for name in tensors.keys()  # noqa: SIM118
        )
    lora.eject()
    assert load_lora(file, model).sizes == lora.sizes


def test_layers_of_different_rank_and_a_file_without_alpha(model, lora, tmp_path):
    from safetensors.torch import save_file

    state = {name: value for name, value in lora.state_dict().items() if not name.endswith("alpha")}
    down, up = (
        next(name for name in state if "down" in name),
        next(name for name in state if ".lora_up" in name),
    )
    state[down], state[up] = state[down][:2].clone(), state[up][:, :2].clone()
    file = tmp_path / "mixed.safetensors"
    save_file(state, file)
    lora.eject()
    loaded = load_lora(file, model)
    sizes = list(loaded.sizes.values())
    assert (sizes[0].rank, sizes[0].alpha) == (2, 2.0)
    assert {(size.rank, size.alpha) for size in sizes[1:]} == {(4, 4.0)}
    place = next(iter(loaded.sizes))
    module = model.unet.get_submodule(place.path)
    x = torch.randn(1, module.in_features)
    with torch.no_grad():
        effect = module(x) - module.base_layer(x)
        torch.testing.assert_close(effect, x @ state[down].T @ state[up].T, atol=1e-6, rtol=1e-4)


def test_useless_loras_are_not_saved(model, tmp_path):
    file = tmp_path / "lora.safetensors"
    lora = inject(model, LoraConfig(), 0)
    with pytest.raises(CheckpointError, match="0 everywhere"):
        write_lora(file, lora.weights(), {}, family=SD1.lora)
    with torch.no_grad():
        trained(lora).parameters[3][0, 0] = float("inf")
    with pytest.raises(CheckpointError, match=r"NaN or infinity in 1 layers, such as unet\."):
        write_lora(file, lora.weights(), {}, family=SD1.lora)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("code", "advice"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "choose another folder")]
)
@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_no_partial_file(lora, tmp_path, monkeypatch, code, advice, existing):
    file = tmp_path / "lora.safetensors"
    if existing:
        file.write_bytes(b"the old one")

    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=advice):
        write_lora(file, lora.weights(), {}, family=SD1.lora)
    assert [p.name for p in tmp_path.iterdir()] == ([file.name] if existing else [])
    assert not existing or file.read_bytes() == b"the old one"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device(lora, tmp_path):
    temporary = tmp_path / f".lora.safetensors.{os.getpid()}.tmp"
    temporary.symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left"):
        write_lora(tmp_path / "lora.safetensors", lora.weights(), {}, family=SD1.lora)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be(lora, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot be written"):
        write_lora(tmp_path / "file" / "lora.safetensors", lora.weights(), {}, family=SD1.lora)


def test_files_that_are_no_lora(model, lora, tmp_path):
    from safetensors.torch import save_file

    file, state = tmp_path / "lora.safetensors", lora.state_dict()
    write_lora(file, lora.weights(), {}, family=SD1.lora)
    whole = file.read_bytes()
    lora.eject()
    before = structure(model.unet)

    def refuse(message: str) -> None:
        with pytest.raises(CheckpointError, match=message) as caught:
            load_lora(file, model)
        assert str(file) in str(caught.value)
        assert structure(model.unet) == before and not hasattr(model.unet, "peft_config")

    file.write_bytes(whole[:-10])
    refuse("damaged or incomplete")
    file.write_bytes(b"not a LoRA at all")
    refuse("damaged or incomplete")
    save_file({"weight": torch.ones(2)}, file)
    refuse("0 of its 1 tensors are those of a LoRA for Stable Diffusion 1.x; 1 are not, such as weight")
    extra = {
        f"lora_te_text_model_encoder_layers_9_mlp_fc1{end}": torch.ones(2, 2)
        for end in (".lora_down.weight", ".lora_up.weight")
    }
    save_file({**state, **extra}, file)
    refuse(
        r"\d+ of its \d+ layers are in this checkpoint; 1 are not, such as text_encoder\.text_model\.encoder\.layers\.9"
    )
    save_file({name: value for name, value in state.items() if not name.endswith("lora_up.weight")}, file)
    refuse("is incomplete: it has only")
    wrong = dict(state)
    name = next(name for name in wrong if name.endswith("lora_up.weight"))
    save_file({**wrong, name: torch.ones(5, 4)}, file)
    refuse("does not fit: .* of shape")
    save_file({**wrong, name: wrong[name] * float("nan")}, file)
    refuse("does not fit: .* NaN")
    file.unlink()
    refuse("there is no file at")
