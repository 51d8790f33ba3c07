"""The same weights in ComfyUI and in diffusers: whole text encoders and VAE, a reduced UNet; where COMFYUI_DIR is set."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import comfy_bed
import ldm
import pytest
import test_nodes as contract
import torch
from test_nodes_on_comfyui import trained
from torch import Tensor, nn

from rlr_core.chain import Chain, Conditioning, initial_latents, rollout
from rlr_core.families import FAMILIES, Component, Role
from rlr_core.models.architecture import Request
from rlr_core.models.stable_diffusion.loading.clip_tokenizer import clip_tokenizer
from rlr_core.models.stable_diffusion.loading.parts import Parts, assembled

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not comfy_bed.REAL, reason="COMFYUI_DIR is not set"),
]
TEXTS = ["a cat", "a dog on a wooden chair, at dusk"]
NEGATIVES = ["blurry", "grey"]


@dataclass
class Pair:
    """ComfyUI's objects and our model of diffusers' networks."""

    given: Any
    model: Any


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def pair(request: Any) -> Iterator[Pair]:
    comfy_bed.objects()
    import comfy.sd
    import reduced_checkpoints

    family = FAMILIES[request.param]
    made = {"unet": reduced_checkpoints.unet(request.param), **networks(family)}
    with torch.inference_mode():
        objects = comfy.sd.load_state_dict_guess_config(ldm.ldm_tensors(made, family))[:3]
    texts = [made[name] for name in ("text_encoder", "text_encoder_2") if name in made]
    parts = Parts(
        family, made["unet"], made["vae"], texts, [clip_tokenizer()] * len(texts),
        [family.parts[name].pad for name in made if "text" in name], made["scheduler"], family.is_xl,
    )  # fmt: skip
    request_ = Request("twin", torch.device("cpu"), torch.float32)
    yield Pair(comfy_bed.node_file("training").Given(*objects, "reduced"), assembled(parts, request_))
    del made, objects, texts, parts
    gc.collect()


def networks(family: Any) -> dict[str, Any]:
    """VAE, text encoders and scheduler, with weights that 16 bits hold: ComfyUI may keep them so."""
    from diffusers import AutoencoderKL, DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    configs = {
        name: str(family.configs / name) for name in ("vae", "scheduler", "text_encoder", "text_encoder_2")
    }
    made: dict[str, Any] = {
        "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(configs["vae"])),
        "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(configs["text_encoder"])),
        "scheduler": DDIMScheduler.from_config(DDIMScheduler.load_config(configs["scheduler"])),
    }
    if family.is_xl:
        config = CLIPTextConfig.from_pretrained(configs["text_encoder_2"])
        made["text_encoder_2"] = CLIPTextModelWithProjection(config)
    with torch.no_grad():
        for network in made.values():
            if isinstance(network, nn.Module):
                for value in network.eval().requires_grad_(False).parameters():
                    value.copy_(value.half())
    return made


def test_texts_are_encoded_alike(pair):
    with contract.held(pair.given, prompts__train=TEXTS, prompts__negative=NEGATIVES[0]) as model:
        ours = model.encode(TEXTS, NEGATIVES[:1] * 2)
    theirs = pair.model.encode(TEXTS, NEGATIVES[:1] * 2)
    names = {"text": "cross_attn"} | ({"pooled": "pooled_output"} if pair.model.family.is_xl else {})
    for prefix in ("", "negative_"):
        for name, host in names.items():
            one, other = ours[prefix + host], theirs[prefix + name]
            assert one.shape == other.shape and other.std() > 0.01
            assert apart(one, other, f"{prefix}{name}") < 1e-5


def test_pictures_are_decoded_alike(pair):
    with contract.held(pair.given) as model:
        latents = torch.randn(2, *model.latent_shape((64, 64)), generator=torch.Generator().manual_seed(3))
        ours = model.decode(latents).detach()
    theirs = pair.model.decode(latents).detach()
    assert ours.shape == theirs.shape == (2, 3, 64, 64) and theirs.std() > 0.01
    assert float((ours - theirs).abs().max()) < 1e-5


def test_a_chain_and_its_gradient_from_text_to_picture_are_alike(pair):
    with contract.held(pair.given) as model:
        lora, walk = trained(model), contract.chain(model)
        latents, mine = walked(walk, model, lora)
        times = model.schedule(contract.STEPS, None).time[:-1].float()
        timesteps = pair.given.model.get_model_object("model_sampling").timestep(times)
        own = {place: (down.detach(), up.detach()) for place, down, up in lora.layers()}
        lora.eject()
    twin = trained(_Unet(pair.model))
    with torch.no_grad():
        for place, down, up in twin.layers():
            down.copy_(own[place][0].reshape(down.shape)), up.copy_(own[place][1].reshape(up.shape))
    words = Conditioning.constant(pair.model.encode(["a cat", "a dog"], ["blurry"] * 2), contract.STEPS)
    other = Chain(_At(pair.model.denoiser(3.0), times, timesteps), walk.schedule, words, walk.noise, 0.0)
    expected, theirs = walked(other, pair.model, twin)
    twin.eject()
    assert apart(latents, expected, "latents") < 1e-5
    assert mine.keys() == theirs.keys()
    one, two = (torch.cat([each[place] for place in theirs]) for each in (mine, theirs))
    error = float((one - two).norm() / two.norm())
    print("gradient", error)
    assert error < 1e-5


def walked(walk: Chain, model: Any, lora: Any) -> tuple[Tensor, dict[Any, Tensor]]:
    """Where a chain ends, and the gradient of what its pictures score, by layer."""
    latents = rollout(walk, initial_latents(walk), torch.arange(2), range(contract.STEPS))[0]
    parts = torch.autograd.grad(model.decode(latents).square().mean(), lora.parameters)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    rows = [torch.cat([down.flatten(), up.flatten()]) for down, up in pairs]
    return latents.detach(), dict(zip(lora.sizes, rows, strict=True))


def apart(one: Tensor, other: Tensor, name: str) -> float:
    """Largest difference beside the largest number."""
    error = float((one - other).abs().max() / other.abs().max())
    print(name, error)
    return error


class _Unet:
    """diffusers' UNet, for a LoRA."""

    def __init__(self, model: Any):
        self.lora_family = model.lora_family
        self.components = [Component("unet", Role.DENOISER, model.unet)]


class _At:
    """A denoiser at the timesteps of ComfyUI's σ."""

    def __init__(self, inner: Any, sigmas: Tensor, timesteps: Tensor):
        self.inner, self.sigmas, self.timesteps = inner, sigmas, timesteps

    def __call__(self, x: Tensor, level: Any, conditioning: Any) -> Any:
        at = (level.time[:, None] - self.sigmas).abs().argmin(1)
        return self.inner(x, level._replace(time=self.timesteps[at]), conditioning)
