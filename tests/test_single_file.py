"""Single-file checkpoints: told apart by their header, and loaded as diffusers loads the same weights."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ldm
import pytest
import torch
from safetensors.torch import load_file, save_file

from rlr_core.chain import Chain, Conditioning, SampleNoise, rollout
from rlr_core.errors import CheckpointError, ConfigError
from rlr_core.families import FAMILIES
from rlr_core.models import StableDiffusion, load_model
from rlr_core.models.describing import describe_checkpoint
from rlr_core.models.stable_diffusion.detection.of_file import missing_parts, part_names
from rlr_core.models.stable_diffusion.loading.clip_tokenizer import clip_tokenizer
from rlr_core.safetensors_header import read_header

NAMES = tuple(FAMILIES)
PROMPTS = ["a photo of a cat", "Größe (masterpiece:1.2), 名前"]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("single files")


@pytest.fixture(scope="module", autouse=True)
def tiny(workshop):
    """Tiny families, and their networks."""
    with pytest.MonkeyPatch.context() as patch:
        made = ldm.use_tiny_families(workshop / "configs", patch)
        torch.manual_seed(1)
        yield {name: (family, ldm.components(family)) for name, family in made.items()}


@pytest.fixture(scope="module")
def files(workshop, tiny) -> dict[str, Path]:
    return {
        name: ldm.save(ldm.ldm_tensors(networks, family), workshop / f"{name} – Größe.safetensors")
        for name, (family, networks) in tiny.items()
    }


def load(path: Path, dtype: torch.dtype = torch.float32, **options: Any) -> StableDiffusion:
    return load_model(str(path), device="cpu", dtype=dtype, **options)


def padded(pad: str) -> Any:
    """A tokenizer as diffusers' folders have it: it takes `pad` for the padding wherever it stands."""
    tokenizer = clip_tokenizer()
    tokenizer.pad_token = pad
    return tokenizer


def pipeline(networks: dict[str, Any], *, velocity: bool = False) -> Any:
    """diffusers' own, of the same networks, with tokenizers of ours."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    parts = dict(networks)
    if velocity:
        scheduler = parts["scheduler"]
        parts["scheduler"] = scheduler.from_config(scheduler.config, prediction_type="v_prediction")
    if "text_encoder_2" in parts:
        tokenizers = {"tokenizer": clip_tokenizer(), "tokenizer_2": padded("!")}
        made = StableDiffusionXLPipeline(**parts, **tokenizers, add_watermarker=False)
    else:
        open_clip = parts["text_encoder"].config.hidden_act == "gelu"
        tokenizer = padded("!") if open_clip else clip_tokenizer()
        made = StableDiffusionPipeline(
            **parts,
            tokenizer=tokenizer,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    made.set_progress_bar_config(disable=True)
    return made


@torch.no_grad()
def paint(model: StableDiffusion, start: torch.Tensor, negative: str = "", steps: int = 3) -> torch.Tensor:
    conditioning = Conditioning.constant(model.encode(PROMPTS, [negative] * len(PROMPTS)), steps)
    noise = SampleNoise([0, 1], tuple(start.shape[1:]), torch.float32, "cpu")
    chain = Chain(model.denoiser(3.0), model.schedule(steps), conditioning, noise, 0.0)
    latents, _ = rollout(chain, start, torch.arange(2), range(steps))
    return model.decode(latents)


def paint_with_diffusers(pipe: Any, start: torch.Tensor, negative: str | None = None, **options: Any):
    return pipe(
        PROMPTS,
        negative_prompt=None if negative is None else [negative] * 2,
        latents=start,
        height=64,
        width=64,
        num_inference_steps=3,
        guidance_scale=3.0,
        eta=0.0,
        output_type="pt",
        **options,
    ).images


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_arrives(tiny, files, name):
    model = load(files[name])
    for component, network in ((each.name, each.network) for each in model.components):
        expected = tiny[name][1][component].state_dict()
        state = network.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in expected)
        assert not network.training and not any(value.requires_grad for value in network.parameters())


@pytest.mark.parametrize("negative", ["", "ugly"])
@pytest.mark.parametrize("name", NAMES)
def test_pictures_equal_those_of_diffusers_pipeline(tiny, files, name, negative):
    start = torch.randn(2, 4, 8, 8)
    velocity, xl = "v_prediction" in FAMILIES[name].sizes, FAMILIES[name].is_xl
    model = load(files[name], prediction="v_prediction" if velocity else "auto")
    theirs = None if xl and not negative else negative  # XL: an empty one is zeros
    expected = paint_with_diffusers(pipeline(tiny[name][1], velocity=velocity), start, theirs)
    pictures = paint(model, start, negative)
    assert pictures.shape == (2, 3, 64, 64) and expected.std() > 0.05
    torch.testing.assert_close(pictures, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_diffusers_folder_of_the_same_weights_gives_the_same_pictures(tiny, files, name, tmp_path):
    pipeline(tiny[name][1]).save_pretrained(tmp_path / "folder")
    start = torch.randn(2, 4, 8, 8)
    model = load(tmp_path / "folder")
    assert model.family.title == load(files[name]).family.title
    torch.testing.assert_close(
        paint(model, start), paint(load(files[name], prediction="epsilon"), start), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(("name", "own"), [("sd1", 1), ("sd2", 2), ("sdxl", 2)])
def test_clip_skip_is_that_of_hosts(tiny, files, name, own):
    """Counted from 1, the last layer; diffusers counts the layers that are left out of what it has loaded."""
    start, networks = torch.randn(2, 4, 8, 8), tiny[name][1]
    options = {"prediction": "epsilon"}
    default = paint(load(files[name], **options), start, "ugly")
    assert torch.equal(paint(load(files[name], clip_skip=own, **options), start, "ugly"), default)
    skipped = load(files[name], clip_skip=own + 1)
    tokens = skipped.tokens.tokenize(PROMPTS, ["ugly"] * len(PROMPTS))
    with torch.no_grad():
        parts = []
        for k, component in enumerate(skipped.tokens.networks, 1):
            network = networks[component]
            states = network(tokens[f"text_{k}"][:, 0], output_hidden_states=True).hidden_states
            parts.append(states[-3] if name == "sdxl" else network.final_layer_norm(states[-2]))
    torch.testing.assert_close(
        skipped.encode(PROMPTS, ["ugly"] * len(PROMPTS))["text"], torch.cat(parts, -1), atol=1e-5, rtol=0
    )


def test_a_clip_skip_beyond_the_layers(files):
    for name, number in {"sd1": 13, "sd2": 1, "sdxl": 14}.items():
        with pytest.raises(ConfigError, match=f"model.clip_skip = {number}"):
            load(files[name], clip_skip=number)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_embedded_anew_equal_what_is_encoded_once(files, name):
    model = load(files[name])
    for negative in ("", "ugly"):
        once, anew = (
            model.encode(PROMPTS, [negative] * len(PROMPTS)),
            model.tokens.embed(model.tokens.tokenize(PROMPTS, [negative] * len(PROMPTS))),
        )
        assert once.keys() == anew.keys()
        for key in once:
            torch.testing.assert_close(anew[key], once[key], atol=1e-5, rtol=0)
    if FAMILIES[name].is_xl:
        assert set(once) == {"text", "pooled", "negative_text", "negative_pooled"}
        assert not model.encode(PROMPTS, [""] * len(PROMPTS))["negative_pooled"].any()


def test_tokens_have_known_numbers(files):
    words = [49406, 320, 1125, 539, 320, 2368, 49407]
    pads = {"sd1": {"text_1": 49407}, "sd2": {"text_1": 0}, "sdxl": {"text_1": 49407, "text_2": 0}}
    for name, expected in pads.items():
        tokens = load(files[name]).tokens.tokenize(PROMPTS[:1], [""])
        assert set(tokens) == {*expected, *("negative_" + key for key in expected)}
        for key, pad in expected.items():
            assert tokens[key][0, 0].tolist() == words + [pad] * 70


@pytest.mark.parametrize(
    "text", ["don't; naïve café's 123!!", "(masterpiece:1.2), 名前 🎨", "a" * 60, "Straße   x\ty !"]
)
def test_tokens_are_those_of_open_clip(files, text):
    import open_clip

    tokens = load(files["sd2"]).tokens.tokenize([text], [""])["text_1"][0, 0]
    assert tokens.tolist() == open_clip.get_tokenizer("ViT-L-14")([text])[0].tolist()


def test_a_description_takes_milliseconds(files):
    for name, path in files.items():
        began = time.process_time()
        described = describe_checkpoint(path)
        assert time.process_time() - began < 0.5
        assert described.missing == () and described.precision == "fp32" and described.ema == "none"
        assert described.family == FAMILIES[name].title


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        (torch.float16, "fp16"),
        (torch.bfloat16, "bf16"),
        (torch.float8_e4m3fn, "fp8 (e4m3)"),
        (torch.float8_e5m2, "fp8 (e5m2)"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_precisions(files, tmp_path, name, dtype, text):
    state = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in load_file(files[name]).items()
    }
    path = tmp_path / "small.safetensors"
    save_file(state, path)
    assert describe_checkpoint(path).precision == text
    model = load(path)
    assert {value.dtype for value in model.unet.state_dict().values()} == {torch.float32}
    key = "model.diffusion_model.input_blocks.0.0.weight"
    assert torch.equal(model.unet.state_dict()["conv_in.weight"], state[key].float())
    assert paint(model, torch.randn(2, 4, 8, 8)).isfinite().all()


def changed(source: Path, target: Path, change, **metadata: str) -> Path:
    """A copy with other tensors."""
    state = load_file(source)
    save_file(change(state) or state, target, metadata=metadata or None)
    return target


def test_an_fp32_vae_in_an_fp16_file(files, tmp_path):
    def halve(state):
        return {key: value if key.startswith(ldm.VAE) else value.half() for key, value in state.items()}

    assert (
        describe_checkpoint(changed(files["sd1"], tmp_path / "a.safetensors", halve)).precision
        == "fp16, VAE fp32"
    )


def test_xl_decodes_in_float32_where_float16_would_overflow(files):
    assert load(files["sdxl"], torch.float16).vae.dtype == torch.float32
    assert load(files["sdxl"], torch.bfloat16).vae.dtype == torch.bfloat16
    assert load(files["sd1"], torch.float16).vae.dtype == torch.float16


def with_mean(state):
    """A running mean that differs from the weights."""
    means = {ldm.ema_name(key): value + 1 for key, value in state.items() if key.startswith(ldm.UNET)}
    return {**state, **means}


def only_mean(state):
    return {key: value for key, value in with_mean(state).items() if not key.startswith(ldm.UNET)}


@pytest.mark.parametrize("name", NAMES)
def test_running_means_are_used_where_there_is_nothing_else(files, tmp_path, name):
    plain = load(files[name]).unet.state_dict()
    for change, text, shift in ((with_mean, "beside", 0), (only_mean, "only", 1)):
        path = changed(files[name], tmp_path / f"{text}.safetensors", change)
        assert describe_checkpoint(path).ema == text and describe_checkpoint(path).missing == ()
        state = load(path).unet.state_dict()
        assert all(torch.equal(state[key], plain[key] + shift) for key in plain)


def without(prefix: str):
    return lambda state: {key: value for key, value in state.items() if not key.startswith(prefix)}


def test_a_missing_vae_can_come_from_elsewhere(tiny, files, tmp_path):
    path = changed(files["sd1"], tmp_path / "bare.safetensors", without(ldm.VAE))
    assert describe_checkpoint(path).missing == ("vae",)
    with pytest.raises(CheckpointError, match=r"has no VAE[\s\S]*set model.vae"):
        load(path)
    networks = tiny["sd1"][1]
    bare = {name.removeprefix(ldm.VAE): value for name, value in ldm.vae_tensors(networks["vae"])}
    networks["vae"].save_pretrained(tmp_path / "vae folder")
    pipeline(networks).save_pretrained(tmp_path / "folder")
    elsewhere = {
        "original": ldm.save(bare, tmp_path / "vae.safetensors"),
        "in diffusers' names": ldm.save(networks["vae"].state_dict(), tmp_path / "vae2.safetensors"),
        "of a checkpoint": files["sd1"],
        "folder": tmp_path / "vae folder",
        "of a folder": tmp_path / "folder",
    }
    for where in elsewhere.values():
        state = load(path, vae=str(where)).vae.state_dict()
        assert all(torch.equal(state[key], value) for key, value in networks["vae"].state_dict().items())


def test_vaes_that_are_none(files, tmp_path):
    ldm.save({"a": torch.zeros(1)}, tmp_path / "no.safetensors")
    for vae, message in {"absent": "there is no VAE at", "no.safetensors": "is no VAE"}.items():
        with pytest.raises(CheckpointError, match=message):
            load(files["sd1"], vae=str(tmp_path / vae))


def test_old_names_of_the_text_encoder(files, tmp_path):
    def shorten(state):
        return {key.replace("text_model.", ""): value for key, value in state.items()}

    model = load(changed(files["sd1"], tmp_path / "old.safetensors", shorten))
    assert torch.equal(
        model.encode(PROMPTS, [""] * len(PROMPTS))["text"],
        load(files["sd1"]).encode(PROMPTS, ["", ""])["text"],
    )


def test_incomplete_files_say_what_they_lack(files, tmp_path):
    lacking = {
        "cond_stage_model.": r"lacks text_encoder\n",
        "cond_stage_model.transformer.text_model.encoder.layers.3.": r"text_encoder \(180 of 196 tensors\)",
        "model.diffusion_model.out.": r"lacks unet \(682 of 686 tensors\)",
        "first_stage_model.decoder.conv_in": r"lacks vae \(246 of 248 tensors\)",
    }
    for prefix, message in lacking.items():
        file = changed(files["sd1"], tmp_path / "lacking.safetensors", without(prefix))
        with pytest.raises(CheckpointError, match=message) as caught:
            load(file)
        assert f"lacks {', '.join(describe_checkpoint(file).missing)}\n" in str(caught.value)


def test_a_tensor_under_a_wrong_name_or_of_a_wrong_shape(files, tmp_path):
    def rename(state):
        state["model.diffusion_model.out.9.weight"] = state.pop("model.diffusion_model.out.2.weight")

    def stretch(state):
        state["model.diffusion_model.out.2.weight"] = torch.zeros(4, 9, 3, 3)

    for change, message in (
        (rename, r"lacks unet \(685 of 686 tensors\)"),
        (stretch, "unet in .* cannot be loaded"),
    ):
        file = changed(files["sd1"], tmp_path / "wrong.safetensors", change)
        with pytest.raises(CheckpointError, match=message):
            load(file)
        assert describe_checkpoint(file).missing == (
            ("unet (685 of 686 tensors)",) if change is rename else ()
        )


@pytest.mark.parametrize("name", NAMES)
def test_no_unknown_name_makes_up_for_a_tensor(name, tiny, files):
    """What is called whole is loaded: one tensor of each kind is renamed, in every part."""
    header, parts = read_header(files[name]), tiny[name][0].parts
    for part, original in parts.items():
        kinds = {re.sub(r"\d+", "#", each): each for each in part_names(header, original)}
        for renamed in kinds.values():
            others = {each + "_" * (each == renamed): info for each, info in header.tensors.items()}
            missing = missing_parts(replace(header, tensors=others), tiny[name][0])
            assert missing == [f"{part} ({original.count - 1} of {original.count} tensors)"], renamed


def test_pickled_files_only_if_asked_for(files, tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": load_file(files["sd1"]), "global_step": 7}, path)
    with pytest.raises(CheckpointError, match=r"is a pickled file[\s\S]*model.allow_pickle = true"):
        load(path)
    state, expected = (load(f, allow_pickle=True).unet.state_dict() for f in (path, files["sd1"]))
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_pickles_that_would_run_code_do_not(tmp_path):
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (ran,))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="damaged, or holds more than weights"):
        load(tmp_path / "evil.ckpt", allow_pickle=True)
    assert not ran.exists()


BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


def spread(wide: bool):
    def change(state):
        state[BIAS] = torch.linspace(-1, 1, len(state[BIAS])) * (0.3 if wide else 0.05)

    return change


def mark(*names: str):
    return lambda state: state.update({name: torch.zeros(0) for name in names})


MARKED = {
    "wide bias": ("sd2", "a", spread(True), {}, "v_prediction", "a guess from one bias"),
    "narrow bias": ("sd2", "a", spread(False), {}, "epsilon", "a guess from one bias"),
    "name 768": ("sd2", "v2-1_768-ema", spread(False), {}, "v_prediction", "its name"),
    "name 512": ("sd2", "512-base-ema", spread(True), {}, "epsilon", "its name"),
    "metadata": ("sd2", "768", spread(False), {"modelspec.prediction_type": "epsilon"}, "epsilon", "its metadata"),
    "architecture": (
        "sd2",
        "512",
        spread(False),
        {"modelspec.architecture": "stable-diffusion-v2-768-v"},
        "v_prediction",
        "its metadata",
    ),
    "mark": ("sdxl", "a", mark("v_pred"), {"modelspec.prediction_type": "epsilon"}, "v_prediction", "v_pred mark"),
    "usual": ("sdxl", "a 768", mark(), {}, "epsilon", "usual"),
    "name of XL": ("sdxl", "noobaiXLNAIXL_vPred10Version", mark(), {}, "epsilon or v_prediction", "its name says v"),
    "name of 1.x": ("sd1", "furry_v-prediction", mark(), {}, "epsilon or v_prediction", "its name says v"),
    "name and mark": ("sdxl", "noobaiXL_vpred", mark("v_pred"), {}, "v_prediction", "v_pred mark"),
    "name and metadata": ("sdxl", "a vpred", mark(), {"modelspec.prediction_type": "epsilon"}, "epsilon", "its metadata"),
    "not a name": ("sdxl", "improved", mark(), {}, "epsilon", "usual"),
}  # fmt: skip


@pytest.mark.parametrize("case", MARKED)
def test_what_tells_the_prediction(files, tmp_path, case):
    name, stem, change, metadata, prediction, rule = MARKED[case]
    path = changed(files[name], tmp_path / f"{stem}.safetensors", change, **metadata)
    described = describe_checkpoint(path)
    assert described.prediction == prediction and rule in described.prediction_rule
    assert (
        described.size
        == {"sd2": 768 if prediction == "v_prediction" else 512, "sdxl": 1024, "sd1": 512}[name]
    )


def test_a_name_that_says_v_is_asked_about(files, tmp_path):
    path = changed(files["sdxl"], tmp_path / "an XL-vPred 1.0.safetensors", mark())
    with pytest.raises(CheckpointError, match=r"epsilon or v_prediction[\s\S]*model\.prediction = "):
        load(path)
    model = load(path, prediction="v_prediction", zero_snr="yes")
    assert model.prediction_type == "v_prediction" and model.schedule(10).alpha[0] == 0


def test_a_yaml_beside_the_file_tells_the_prediction(files, tmp_path):
    path = changed(files["sd1"], tmp_path / "fluffy.safetensors", mark())
    path.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n', encoding="utf-8")
    assert (
        describe_checkpoint(path).prediction == "v_prediction"
        and load(path).prediction_type == "v_prediction"
    )
    assert load(path, prediction="epsilon").prediction_type == "epsilon"
    assert load(path).lora_metadata()["ss_base_model_version"] == "sd_v1_v"


def test_zero_terminal_snr(files, tmp_path):
    path = changed(files["sdxl"], tmp_path / "noob.safetensors", mark("v_pred", "ztsnr"))
    assert describe_checkpoint(path).zero_snr
    schedule = load(path).schedule(4)
    assert schedule.time[0] == 999 and schedule.alpha[0] < 1e-6
    assert load(files["sdxl"]).schedule(4).alpha[0] > 0.05


def test_a_resolution_in_the_metadata(files, tmp_path):
    path = changed(files["sd1"], tmp_path / "a.safetensors", mark(), **{"modelspec.resolution": "768x768"})
    assert describe_checkpoint(path).size == 768 and load(path).latent_shape(None) == (4, 96, 96)


METADATA = {
    "sd1": ("sd_v1", "False", "stable-diffusion-v1/lora", "512x512"),
    "sd2": ("sd_v2_v", "True", "stable-diffusion-v2-768-v/lora", "768x768"),
    "sdxl": ("sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora", "1024x1024"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_of_loras(files, tmp_path, name):
    path = changed(files[name], tmp_path / "a.safetensors", spread(True) if name == "sd2" else mark())
    facts = load(path).lora_metadata()
    keys = ("ss_base_model_version", "ss_v2", "modelspec.architecture", "modelspec.resolution")
    assert tuple(facts[key] for key in keys) == METADATA[name]
