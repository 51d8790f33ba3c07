"""Each experimental family's network, reduced, in the real ComfyUI; its texts are random numbers. Where COMFYUI_DIR is set."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import comfy_bed
import pytest
import test_nodes as contract
import torch
from test_nodes_on_comfyui import trained
from torch import Tensor

from rlr_core.chain import initial_latents, rollout
from rlr_core.errors import CheckpointError

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not comfy_bed.REAL, reason="COMFYUI_DIR is not set"),
]
WIDTHS = {
    "PixArtAlpha": 4096, "PixArtSigma": 4096, "Flux": 4096, "FluxSchnell": 4096, "Flux2": 512, "Chroma": 4096,
    "AuraFlow": 2048, "Lumina2": 512, "ZImage": 512,
}  # fmt: skip
"""Family → numbers of each of a text's vectors."""


class Clip:
    """Texts as random numbers, and what CLIPs give beside them: language models, masks of whole numbers."""

    def __init__(self, width: int):
        self.width = width

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        drawn = torch.randn(9, max(self.width, 2048), generator=torch.Generator().manual_seed(seed))
        words, pooled = drawn[None, :8, : self.width], drawn[None, 8, :2048]
        mask = {"attention_mask": torch.ones(1, 8, dtype=torch.long)} if self.width == 512 else {}
        return [[words, {"pooled_output": pooled, **mask}]]


@pytest.fixture(scope="module", params=list(WIDTHS))
def given(request: Any) -> Iterator[Any]:
    vae = comfy_bed.objects()[2]
    import comfy.sd
    import reduced_networks

    if not reduced_networks.is_known(request.param):
        pytest.skip(f"this ComfyUI has no {request.param}")
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model_state_dict(reduced_networks.tensors(request.param))
    yield comfy_bed.node_file("training").Given(model, Clip(WIDTHS[request.param]), vae, "reduced")
    del model
    gc.collect()


def alone(given: Any, model: Any, start: Tensor) -> Tensor:
    """What KSampler makes of `start` (1, …)."""
    import comfy.sample

    texts = [given.clip.encode_from_tokens_scheduled(text) for text in ("a cat", "blurry")]
    with torch.inference_mode():
        raw = comfy.sample.sample(
            model, start, contract.STEPS, 3.0, "euler", "normal", *texts, torch.zeros_like(start),
            disable_pbar=True, seed=1,
        )  # fmt: skip
    return model.model.process_latent_in(raw)


def test_it_samples_as_ksampler_does_and_its_lora_is_what_the_core_loads(given):
    import comfy.sd

    from rlr_core.lora.encoding import encode

    with contract.held(given) as model:
        walk = chain(given, model)
        base = walked(walk).detach()
        lora = trained(model)
        ours = walked(walk).detach()
        file = encode(lora.weights(), "comfyui", lora.family)[0]
        lora.eject()
    assert all(name.startswith("diffusion_model.") for name in file)
    start = walk.noise.initial()[:1]
    assert close(base, alone(given, given.model, start), base)
    loaded, _ = comfy.sd.load_lora_for_models(given.model, None, file, 1.0, 0.0)
    assert close(ours, alone(given, loaded, start), base)
    assert (ours - base).abs().max() > 1e-3 * base.abs().max(), "the LoRA does something"


def test_its_gradient_is_the_slope_also_where_the_network_is_run_again(given):
    """Along the gradient, central differences say how long it is; float32 tells that to some thousandths.

    Of two steps, one half of the other, what grows with their square is taken out: networks of random weights bend.
    """
    with contract.held(given) as model:
        walk = chain(given, model)
        lora = trained(model)

        def score() -> Tensor:
            return walked(walk).square().mean()

        parts = torch.autograd.grad(score(), lora.parameters)
        with model.saving("checkpoint_denoiser", True):
            again = torch.autograd.grad(score(), lora.parameters)
        length = torch.stack([part.norm() for part in parts]).norm()
        direction = [part / length for part in parts]
        wide, narrow = (central(score, lora.parameters, direction, step) for step in (STEP, STEP / 2))
        lora.eject()
    slope = narrow + (narrow - wide) / 3
    print("slopes", wide, narrow, slope, "length of the gradient", float(length))
    assert slope == pytest.approx(float(length), rel=0.01)
    assert all(torch.equal(one, other) for one, other in zip(parts, again, strict=True))


@torch.no_grad()
def central(
    score: Callable[[], Tensor], weights: Sequence[Tensor], direction: list[Tensor], step: float
) -> float:
    """The score's slope along a direction, from a step to either side; the weights are back afterwards."""
    before, ends = [weight.detach().clone() for weight in weights], []
    for signed in (step, -step):
        for weight, start, part in zip(weights, before, direction, strict=True):
            weight.copy_(start + signed * part)
        ends.append(float(score()))
    for weight, start in zip(weights, before, strict=True):
        weight.copy_(start)
    return (ends[0] - ends[1]) / (2 * step)


STEP = 0.02
"""Of the LoRA's weights in the direction of the gradient."""


def chain(given: Any, model: Any) -> Any:
    """PixArt knows no pictures below 264 pixels."""
    return contract.chain(
        model, side=288 if given.clip.width == 4096 and "pixart" in model.lora_family.key else 64
    )


def walked(walk: Any) -> Tensor:
    return rollout(walk, initial_latents(walk)[:1], torch.arange(1), range(contract.STEPS))[0]


def close(ours: Tensor, theirs: Tensor, scale: Tensor) -> bool:
    error = float((ours - theirs).abs().max() / scale.abs().max())
    print("error beside the largest latent", error)
    return error < 2e-5


def test_a_clip_of_another_width_is_refused(given):
    other = comfy_bed.node_file("training").Given(given.model, Clip(given.clip.width + 64), given.vae, "")
    with pytest.raises(CheckpointError, match=f"{given.clip.width + 64} numbers wide"), contract.held(other):
        pass
