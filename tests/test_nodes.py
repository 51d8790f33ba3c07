"""What the nodes ask of ComfyUI, and what they make of it: on the real one where COMFYUI_DIR is set, else on a stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy_bed
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.testing._internal.two_tensor import TwoTensor

from rlr_core.chain import Chain, Conditioning, SampleNoise, initial_latents, rollout
from rlr_core.config import RunConfig, from_dict
from rlr_core.errors import CheckpointError, ConfigError
from rlr_core.lora import inject
from rlr_core.lora.hooked_lora import HookedLora
from rlr_core.rewards import FunctionReward
from rlr_core.trainer import Evaluation, Iteration, Rewards

STEPS, SIZE = 4, 64


@pytest.fixture(scope="module")
def objects() -> Any:
    return comfy_bed.objects()


@pytest.fixture
def given(objects: Any) -> Any:
    model, clip, vae = objects
    return comfy_bed.node_file("training").Given(model.clone(), clip, vae, "reduced")


def config(**overrides: Any) -> RunConfig:
    values: dict[str, dict[str, Any]] = {
        "model": {"threads": 1},
        "prompts": {"train": ["a cat", "a dog"], "held_out": ["a bird"], "negative": "blurry"},
        "sampling": {"steps": STEPS, "size": SIZE, "guidance_scale": 3.0},
        "lora": {"rank": 2},
        "training": {"iterations": 6, "batch_size": 2, "prompts_per_batch": 2, "learning_rate": 0.02},
        "output": {"preview_every": 0, "evaluation": 0},
    }
    for name, value in overrides.items():
        section, _, key = name.partition("__")
        values.setdefault(section, {})[key] = value
    return from_dict(values)


def red(images: Tensor, prompts: list[str]) -> Tensor:
    return images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))


REWARDS = Rewards(FunctionReward("red", True, red), FunctionReward("red", True, red))


@contextmanager
def held(given: Any, scheduler: str = "normal", **overrides: Any):
    settings = config(**{"sampling__eta": 0.0, **overrides})
    with comfy_bed.node_file("training").held(given, settings, scheduler) as model:
        yield model


def chain(model: Any, scale: float = 3.0, eta: float = 0.0, side: int = SIZE) -> Chain:
    conditioning = Conditioning.constant(model.encode(["a cat", "a dog"], ["blurry"] * 2), STEPS)
    noise = SampleNoise([1, 2], model.latent_shape((side, side)), torch.float32, "cpu")
    return Chain(model.denoiser(scale), model.schedule(STEPS, None), conditioning, noise, eta)


def walked(model: Any, **options: Any) -> Tensor:
    walk = chain(model, **options)
    return rollout(walk, initial_latents(walk), torch.arange(2), range(STEPS))[0]


def weights(network: Any) -> dict[str, int]:
    """Where each one's object is."""
    return {name: id(value) for name, value in (*network.named_parameters(), *network.named_buffers())}


def test_inference_mode_is_left_without_a_copy_and_is_back_after_an_error(given):
    network = given.model.model.diffusion_model
    before, places = weights(network), [p.data_ptr() for p in network.parameters()]
    assert all(p.is_inference() for p in network.parameters())
    with torch.inference_mode():
        with pytest.raises(KeyboardInterrupt), held(given):
            assert not any(p.is_inference() or p.requires_grad for p in network.parameters())
            assert [p.data_ptr() for p in network.parameters()] == places
            assert not torch.is_inference_mode_enabled()
            raise KeyboardInterrupt
        assert torch.is_inference_mode_enabled()
    assert weights(network) == before and given.model.model.current_patcher is None


def test_weights_of_several_tensors_leave_inference_mode_whole():
    """Of the kind that quantised layers have."""
    inference = comfy_bed.node_file("inference")
    with torch.inference_mode():
        layer = torch.nn.Linear(2, 2, bias=False)
        pair = TwoTensor(torch.ones(2, 2), torch.full((2, 2), 3.0))
        layer.weight = torch.nn.Parameter(pair, requires_grad=False)
    own: Any = layer.weight
    with inference.trainable(layer):
        made: Any = layer.weight
        parts = (made.a, made.b)
        assert isinstance(made, TwoTensor) and not any(part.is_inference() for part in parts)
        assert [part.data_ptr() for part in parts] == [own.a.data_ptr(), own.b.data_ptr()]
    assert layer.weight is own


def risen(events: list[Any]) -> float:
    """By how much the reward of the same pictures is higher after training."""
    means = {event.when: event.rewards.mean() for event in events if isinstance(event, Evaluation)}
    return float(means["after"] - means["before"])


def test_training_lifts_the_reward_and_leaves_the_host_as_it_was(given, tmp_path):
    network = given.model.model.diffusion_model
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random, seen = torch.random.get_rng_state(), []
    with torch.inference_mode():
        directory = comfy_bed.train(
            given,
            config(output__evaluation=4, estimator__name="full_bp"),
            tmp_path / "run",
            seen.append,
            rewards=REWARDS,
        )
    assert directory.finished and (lifted := risen(seen)) > 0.005, lifted
    state = network.state_dict()
    assert state.keys() == before.keys() and all(torch.equal(state[name], before[name]) for name in state)
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(random, torch.random.get_rng_state())
    with safe_open(tmp_path / "run" / "rlr-lora.safetensors", "pt") as file:
        names, facts = set(file.keys()), file.metadata()
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert f"{name}.lora_down.weight" in names and f"{name}.alpha" in names
    assert facts["ss_sd_model_name"] == "reduced" and facts["ss_base_model_version"] == "sd_v1"


def test_no_layer_of_a_target_is_left_out(given):
    with held(given) as model:
        lora = inject(model, config().lora, 0, HookedLora)
        attention = [name for name, _ in model.network.named_modules() if name.endswith(ATTENTION)]
        assert len(lora.sizes) == len(attention) > 0
        lora.eject()


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def gradient(given: Any, **saving: Any) -> list[Tensor]:
    with held(given) as model:
        lora = inject(model, config().lora, 0, HookedLora)
        with torch.no_grad():
            for _, _, up in lora.layers():
                up.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
        try:
            if saving:
                with model.saving(*next(iter(saving.items()))):
                    return _gradient(model, lora)
            return _gradient(model, lora)
        finally:
            lora.eject()


def _gradient(model: Any, lora: Any) -> list[Tensor]:
    score = red(model.decode(walked(model)), []).sum()
    return list(torch.autograd.grad(score, lora.parameters))


def test_the_gradient_flows_from_the_picture_to_the_lora_also_when_the_network_is_run_again(given):
    plain = gradient(given)
    assert all(part.abs().max() > 0 for part in plain)
    again = gradient(given, checkpoint_denoiser=True)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


def test_what_another_node_does_to_guidance_is_what_is_trained_on_at_each_samples_own_level(given):
    levels: list[Tensor] = []

    def doubled(given_to: dict[str, Any]) -> Tensor:
        levels.append(given_to["sigma"])
        cond, uncond = given_to["cond"], given_to["uncond"]
        return uncond + 2 * given_to["cond_scale"] * (cond - uncond)

    with held(given) as model:
        twice, usual = walked(model, scale=6.0), walked(model, scale=3.0)
        given.model.model_options["sampler_cfg_function"] = doubled
        changed = walked(model, scale=3.0)
        assert not torch.allclose(usual, twice, atol=1e-3) and torch.allclose(changed, twice, atol=1e-4)
        levels.clear()
        walk = chain(model)
        walk.predict(torch.randn(2, *model.latent_shape((SIZE, SIZE))), torch.tensor([0, 2]), torch.arange(2))
    assert len(levels) == 2 and all(len(level.unique()) == 1 for level in levels)


def test_long_prompts_are_whole_and_all_as_long(given):
    long = " ".join(["cat"] * 90)
    with held(given, prompts__train=["a cat", long]) as model:
        rows = model.encode(["a cat", long], ["blurry"] * 2)
    length = rows["cross_attn"].shape[1]
    assert length > 77 and length % 77 == 0
    short = rows["cross_attn"][0]
    assert torch.equal(short[:77], short[-77:]) and not torch.equal(short, rows["cross_attn"][1])


def test_a_scheduler_that_makes_another_number_of_steps_is_refused(given):
    with held(given, "ddim_uniform") as model, pytest.raises(ConfigError, match="ddim_uniform"):
        model.schedule(6, None)


def test_the_last_step_adds_noise_where_the_others_do_for_the_sake_of_black_boxes(given):
    with held(given) as model:
        quiet = model.schedule(STEPS, None)
    with held(given, sampling__eta=1.0) as model:
        noisy = model.schedule(STEPS, None)
    assert quiet.sigma[-1] == 0 and 0 < noisy.sigma[-1] < quiet.sigma[-2] / 1.9
    assert torch.equal(quiet.sigma[:-1], noisy.sigma[:-1])
    assert noisy.scales(1.0).min() > 0 and quiet.scales(1.0)[-1] == 0
    assert torch.allclose(noisy.alpha**2 + noisy.sigma**2, torch.ones(STEPS + 1, dtype=torch.float64))


def test_what_is_not_known_is_refused_by_name(given, monkeypatch):
    class HunyuanVideo:
        pass

    with monkeypatch.context() as changes:
        changes.setattr(given.model.model, "model_config", HunyuanVideo())
        with pytest.raises(CheckpointError, match="kind HunyuanVideo"), held(given):
            pass
    monkeypatch.setattr(given.model.model, "concat_keys", ("mask",))
    with pytest.raises(CheckpointError, match="mask"), held(given):
        pass


@pytest.mark.parametrize(
    ("gives", "told"),
    [
        ({"hooks": object()}, "hooks"),
        ({"clip_start_percent": 0.0, "clip_end_percent": 1.0}, "hooks"),
        ({"control": object()}, "gives control"),
    ],
)
def test_what_a_clip_gives_beside_texts_is_refused_by_name(given, monkeypatch, gives, told):
    encode = given.clip.encode_from_tokens_scheduled

    def more(tokens: Any) -> Any:
        return [[text, {**others, **gives}] for text, others in encode(tokens)]

    monkeypatch.setattr(given.clip, "encode_from_tokens_scheduled", more)
    with pytest.raises(CheckpointError, match=told), held(given):
        pass


def test_sizes_that_the_vae_cannot_have_are_refused(given):
    with held(given) as model, pytest.raises(ConfigError, match="65 × 64"):
        model.latent_shape((65, 64))


def test_it_needs_nothing_that_comfyui_has_not(tmp_path):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "COMFYUI_DIR": ""}
    program = Path(__file__).with_name("nodes_alone.py")
    done = subprocess.run(
        [sys.executable, program, tmp_path / "run"], env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr


def test_cancel_stops_between_steps_and_keeps_what_is_learned(given, tmp_path, monkeypatch):
    seen: list[Iteration] = []
    monkeypatch.setattr(comfy_bed.node_file("live"), "processing_interrupted", lambda: len(seen) >= 2)

    def listen(event: Any) -> None:
        if isinstance(event, Iteration):
            seen.append(event)

    directory = comfy_bed.train(given, config(), tmp_path / "run", listen, rewards=REWARDS)
    assert directory.state().state == "stopped" and len(seen) == 2
    assert (directory.folder / "rlr-lora.safetensors").is_file()
    assert directory.checkpoints.iterations[-1] == 2
    assert not any(module._forward_hooks for module in given.model.model.diffusion_model.modules())
    assert given.model.model.current_patcher is None


def test_a_cancel_that_the_progress_bar_notices_first_loses_nothing(given, tmp_path, monkeypatch):
    live = comfy_bed.node_file("live")

    class Bar:
        def __init__(self, total: int, node: str):
            pass

        def update_absolute(self, value: int, total: Any, preview: Any) -> None:
            if value == 3:
                raise live.Interrupted

    monkeypatch.setattr(live, "progress_bar", Bar)
    directory = comfy_bed.train(given, config(), tmp_path / "run", rewards=REWARDS)
    assert directory.state().state == "stopped" and directory.checkpoints.iterations[-1] == 3
    assert (directory.folder / "rlr-lora.safetensors").is_file()
