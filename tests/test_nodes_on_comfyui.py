"""The nodes' model against what ComfyUI itself does, and against the same weights in diffusers; where COMFYUI_DIR is set."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import comfy_bed
import pytest
import test_nodes as contract
import torch
from torch import Tensor

from rlr_core.chain import Chain, Guided, initial_latents, rollout
from rlr_core.errors import CheckpointError
from rlr_core.families import SD1, Component, Role
from rlr_core.lora import inject
from rlr_core.lora.hooked_lora import HookedLora
from rlr_core.models.stable_diffusion.model import UNetDenoiser

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not comfy_bed.REAL, reason="COMFYUI_DIR is not set"),
]
objects, given = contract.objects, contract.given
SEED = 1


def euler(model: Any, start: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
    """What KSampler makes of `start`, standard normal."""
    import comfy.sample

    texts = [
        [[conditioning[name + "cross_attn"], {"pooled_output": conditioning[name + "pooled_output"]}]]
        for name in ("", "negative_")
    ]
    options = {"scheduler": "normal", "denoise": 1.0, "disable_pbar": True, "seed": SEED}
    latent = torch.zeros_like(start)
    with torch.inference_mode():
        raw = comfy.sample.sample(
            model,
            start,
            contract.STEPS,
            3.0,
            "euler",
            positive=texts[0],
            negative=texts[1],
            latent_image=latent,
            **options,
        )
    return model.model.process_latent_in(raw)


def trained(model: Any) -> HookedLora:
    lora = inject(model, contract.config().lora, 0, HookedLora)
    with torch.no_grad():
        for _, _, up in lora.layers():
            up.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return lora


def changed(model: Any, change: str) -> Any:
    """The MODEL after a node of ComfyUI's own."""
    from comfy_extras import nodes_model_advanced as advanced
    from comfy_extras import nodes_pag as pag

    change_it = {
        "ε": lambda: model,
        "v": lambda: advanced.ModelSamplingDiscrete().patch(model, "v_prediction", False)[0],
        "v, zero SNR": lambda: advanced.ModelSamplingDiscrete().patch(model, "v_prediction", True)[0],
        "flow": lambda: advanced.ModelSamplingSD3().patch(model, 3.0)[0],
        "RescaleCFG": lambda: advanced.RescaleCFG().patch(model, 0.7)[0],
        "PAG": lambda: pag.PerturbedAttentionGuidance.execute(model, 3.0).result[0],
    }
    return change_it[change]()


def with_model(given: Any, model: Any) -> Any:
    return dataclasses.replace(given, model=model)


ROUNDING = {"v, zero SNR": 3e-4}
"""Beside the largest latent, where it is not 1e-5: σ begins at 4518, of which float32's last digit is 5e-4."""


@pytest.mark.parametrize("change", ["ε", "v", "v, zero SNR", "flow", "RescaleCFG", "PAG"])
def test_a_chain_without_noise_is_ksamplers_euler(given, change):
    given = with_model(given, changed(given.model, change))
    with contract.held(given) as model:
        walk = contract.chain(model)
        ours = contract.walked(model).detach()
        rows = walk.conditioning.at(torch.zeros(2, dtype=torch.long), torch.arange(2))
    theirs = euler(given.model, walk.noise.initial(), rows)
    assert (ours - theirs).abs().max() < ROUNDING.get(change, 1e-5) * theirs.abs().max()


def predicted(model: Any) -> Tensor:
    """x̂ of one evaluation at two levels."""
    walk = contract.chain(model)
    x = torch.randn(2, *walk.noise.initial().shape[1:], generator=torch.Generator().manual_seed(2))
    return walk.predict(x, torch.tensor([0, 2]), torch.arange(2)).sample.detach()


def test_the_network_with_hooks_is_that_with_the_lora_file_loaded(given):
    """To float32's rounding of what comes out. Beside the LoRA's effect, a fifteenth of that, the same rounding is 2e-5."""
    import comfy.sd

    from rlr_core.lora.encoding import encode

    with contract.held(given) as model:
        base, lora = predicted(model), trained(model)
        ours = predicted(model)
        file = encode(lora.weights(), "kohya", lora.family)[0]
        lora.eject()
    loaded, _ = comfy.sd.load_lora_for_models(given.model, None, file, 1.0, 0.0)
    with contract.held(with_model(given, loaded)) as model:
        theirs = predicted(model)
    error = (ours - theirs).abs().max()
    assert error < 3e-6 * theirs.abs().max() and error < 1e-4 * (ours - base).abs().max()


def test_what_is_trained_is_what_comfyui_makes_of_the_lora_file(given):
    import comfy.sd

    from rlr_core.lora.encoding import encode

    with contract.held(given) as model:
        base, lora = contract.walked(model).detach(), trained(model)
        ours = contract.walked(model).detach()
        file = encode(lora.weights(), "kohya", lora.family)[0]
        lora.eject()
        walk = contract.chain(model)
        rows = walk.conditioning.at(torch.zeros(2, dtype=torch.long), torch.arange(2))
    effect = (ours - base).abs().max()
    loaded, _ = comfy.sd.load_lora_for_models(given.model, None, file, 1.0, 0.0)
    theirs = euler(loaded, walk.noise.initial(), rows)
    assert (ours - theirs).abs().max() < 1e-4 * effect


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_weights_of_fewer_bits_are_trained_on_and_stay_as_they_were(given, dtype):
    import comfy.sd
    import reduced_checkpoints

    with torch.inference_mode():
        model = comfy.sd.load_checkpoint_guess_config(
            str(reduced_checkpoints.checkpoint("sd1")),
            output_vae=False,
            output_clip=False,
            model_options={"dtype": dtype},
        )[0]
    weight = model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn1.to_q.weight
    before = weight.float().clone()
    assert weight.dtype == dtype
    parts = contract.gradient(with_model(given, model))
    assert all(part.isfinite().all() and part.abs().max() > 0 for part in parts)
    again = contract.gradient(with_model(given, model), checkpoint_denoiser=True)
    assert all(torch.equal(one, other) for one, other in zip(parts, again, strict=True))
    assert torch.equal(weight.float(), before)


def test_a_lora_that_is_on_the_model_stays_below(given):
    import comfy.sd

    from rlr_core.lora.encoding import encode

    with contract.held(given) as model:
        plain, lora = contract.walked(model).detach(), trained(model)
        both = contract.walked(model).detach()
        file = encode(lora.weights(), "kohya", lora.family)[0]
        lora.eject()
    below, _ = comfy.sd.load_lora_for_models(given.model, None, file, 1.0, 0.0)
    with contract.held(with_model(given, below)) as model:
        assert (contract.walked(model).detach() - both).abs().max() < 1e-4 * (both - plain).abs().max()
        lora = trained(model)
        twice = contract.walked(model).detach()
        assert (twice - both).abs().max() > 0.1 * (both - plain).abs().max()
        lora.eject()
    with contract.held(given) as model:  # which takes the other LoRA off
        assert (contract.walked(model).detach() - plain).abs().max() < 1e-5


def test_four_runs_leave_nothing_behind(given, tmp_path):
    counts = []
    for number in range(4):
        few = {"training__iterations": 1}
        comfy_bed.train(given, contract.config(**few), tmp_path / str(number), rewards=contract.REWARDS)
        gc.collect()
        tensors = [each for each in gc.get_objects() if isinstance(each, Tensor)]
        counts.append((len(tensors), sum(each.nbytes for each in tensors)))
    assert counts[1] == counts[2] == counts[3]


class Unet:
    """diffusers' UNet of the same weights, for a LoRA."""

    lora_family = SD1.lora

    def __init__(self, network: Any):
        self.components = [Component("unet", Role.DENOISER, network)]


def test_the_gradient_is_that_of_the_same_weights_in_diffusers(given):
    import reduced_checkpoints

    def score(walk: Chain) -> Tensor:
        return rollout(walk, initial_latents(walk), torch.arange(2), range(contract.STEPS))[0].square().mean()

    with contract.held(given) as model:
        lora, walk = trained(model), contract.chain(model)
        ours = dict(zip(lora.sizes, _gradients(score(walk), lora), strict=True))
        times = model.schedule(contract.STEPS, None).time[:-1].float()
        timesteps = given.model.get_model_object("model_sampling").timestep(times)
        lora.eject()
    network = reduced_checkpoints.unet("sd1")
    other = trained(Unet(network))
    for place, down, up in other.layers():
        one = dict((p, (d, u)) for p, d, u in lora.layers())[place]
        with torch.no_grad():
            down.copy_(one[0].reshape(down.shape)), up.copy_(one[1].reshape(up.shape))
    twin = Chain(_In(network, times, timesteps), walk.schedule, walk.conditioning, walk.noise, 0.0)
    theirs = dict(zip(other.sizes, _gradients(score(twin), other), strict=True))
    other.eject()
    assert ours.keys() == theirs.keys()
    one, other = (torch.cat([each[place] for place in theirs]) for each in (ours, theirs))
    error = float((one - other).norm() / other.norm())
    assert error < 1e-5


def _gradients(score: Tensor, lora: HookedLora) -> list[Tensor]:
    """Of each layer, in one row."""
    parts = torch.autograd.grad(score, lora.parameters)
    return [torch.cat([a.flatten(), b.flatten()]) for a, b in zip(parts[::2], parts[1::2], strict=True)]


class _In:
    """The guided denoiser of diffusers' UNet at the timesteps of ComfyUI's σ."""

    def __init__(self, network: Any, sigmas: Tensor, timesteps: Tensor):
        self.inner = Guided(UNetDenoiser(network, "epsilon"), 3.0)
        self.sigmas, self.timesteps = sigmas, timesteps

    def __call__(self, x: Tensor, level: Any, conditioning: Any) -> Any:
        at = (level.time[:, None] - self.sigmas).abs().argmin(1)
        words = {name.replace("cross_attn", "text"): value for name, value in conditioning.items()}
        return self.inner(x, level._replace(time=self.timesteps[at]), words)


def test_a_chain_of_another_family_is_ksamplers_euler():
    """SD 3: each text in its own length, each sample alone."""
    flow = comfy_bed.node_file("training").Given(*comfy_bed.objects("sd3"), "reduced")
    with contract.held(flow) as model:
        walk = contract.chain(model)
        ours = contract.walked(model).detach()
        rows = walk.conditioning.at(torch.zeros(2, dtype=torch.long), torch.arange(2))
    theirs = euler(flow.model, walk.noise.initial(), rows)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_a_model_that_is_loaded_in_part_with_a_lora_on_it_is_trained_as_if_it_were_whole(given):
    """As with little memory: weights are then brought, and patched, each time a layer computes."""
    import comfy.sd

    from rlr_core.lora.encoding import encode

    with contract.held(given) as model:
        lora = trained(model)
        file = encode(lora.weights(), "kohya", lora.family)[0]
        lora.eject()
    below, _ = comfy.sd.load_lora_for_models(given.model, None, file, 1.0, 0.0)
    whole = contract.gradient(with_model(given, below))
    with torch.inference_mode():
        below.detach()
        below.patch_model(torch.device("cpu"), lowvram_model_memory=10_000_000)
    assert below.model.model_lowvram
    part = contract.gradient(with_model(given, below))
    error = max(float((one - other).norm() / one.norm()) for one, other in zip(whole, part, strict=True))
    assert error < 1e-5


@pytest.mark.parametrize(("scheduled", "on_texts"), [(True, True), (False, True), (True, False)])
def test_a_clip_with_hooks_is_refused_by_name(given, scheduled, on_texts):
    import comfy.hooks
    from comfy_extras.nodes_hooks import SetClipHooks

    hooks = comfy.hooks.create_hook_lora({}, 1.0, 1.0)
    hooked = dataclasses.replace(
        given, clip=SetClipHooks().apply_hooks(given.clip, scheduled, on_texts, hooks)[0]
    )
    with pytest.raises(CheckpointError, match="with hooks"), contract.held(hooked):
        pass
