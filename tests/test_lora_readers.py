"""Independent readers: diffusers' pipelines load what we write, and paint what our networks with the LoRA inside paint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

import loras
import tiny
from safetensors.torch import load_file

from rlr_core.config import LoraConfig
from rlr_core.families import FAMILIES
from rlr_core.lora import InjectedLora, inject, load_lora, read_lora, write_lora
from rlr_core.lora.merge import merge

SETTINGS = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "pt", "height": 16, "width": 16}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    linear = {"use_linear_projection": True}
    return {
        "sd1": tiny.build_checkpoint(root / "sd1"),
        "sd2": tiny.build_checkpoint(
            root / "sd2", unet=linear, scheduler={"prediction_type": "v_prediction"}
        ),
        "sdxl": tiny.build_sdxl(root / "sdxl"),
    }


def pipeline(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    made = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    made.set_progress_bar_config(disable=True)
    return made


def networks(pipe: Any) -> dict[str, Any]:
    return {
        name: getattr(pipe, name)
        for name in ("unet", "text_encoder", "text_encoder_2")
        if hasattr(pipe, name)
    }


def paint(pipe: Any) -> torch.Tensor:
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return pipe(["red cat", "dog"], negative_prompt=["bad"] * 2, latents=start, **SETTINGS).images


def train(lora: InjectedLora) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in lora.parameters:
            p.add_(torch.randn(p.shape, generator=generator) * 0.2)


@contextmanager
def trained(pipe: Any, family: str, config: LoraConfig) -> Iterator[InjectedLora]:
    lora = inject(loras.adaptable(networks(pipe), family), config, 5)
    train(lora)
    yield lora
    lora.eject()


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(
    ("kind", "dora"),
    [
        ("kohya", False),
        ("diffusers", False),
        ("diffusers", True),
    ],  # diffusers drops the norms of kohya's DoRA files
    ids=["kohya", "diffusers", "diffusers-dora"],
)
def test_diffusers_paints_the_same_from_our_file(family, kind, dora, folders, tmp_path):
    """All layers, all text encoders, a scale that is not 1."""
    pipe = pipeline(folders[family])
    base, file = paint(pipe), tmp_path / "lora.safetensors"
    config = LoraConfig(rank=3, alpha=1.3, targets="all", text_encoder=True, dora=dora)
    with trained(pipe, family, config) as lora:
        ours = paint(pipe)
        weights = lora.weights()
    assert {place.network for place in weights} == networks(pipe).keys()
    torch.testing.assert_close(paint(pipe), base, atol=0, rtol=0)
    write_lora(file, weights, {}, kind=kind, family=FAMILIES[family].lora)
    pipe.load_lora_weights(str(file))
    theirs = paint(pipe)
    torch.testing.assert_close(theirs, ours, atol=2e-5, rtol=0)
    assert (theirs - base).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_we_read_what_diffusers_writes(family, folders, tmp_path):
    from peft import LoraConfig as PeftConfig

    pipe = pipeline(folders[family])
    made = networks(pipe)
    for name, network in made.items():
        layers = ["to_q", "to_v", "ff.net.2"] if name == "unet" else ["q_proj", "fc1"]
        network.add_adapter(PeftConfig(r=3, lora_alpha=5, target_modules=layers, init_lora_weights=False))
    theirs = paint(pipe)
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    layers = {
        f"{name}_lora_layers": convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
        for name, network in made.items()
    }
    metadata = {
        f"{name}_lora_adapter_metadata": network.peft_config["default"].to_dict()
        for name, network in made.items()
    }
    pipe.save_lora_weights(tmp_path, **layers, **metadata)
    (file,) = tmp_path.glob("*.safetensors")
    fresh = pipeline(folders[family])
    lora = load_lora(file, loras.adaptable(networks(fresh), family))
    assert lora.alpha == 5 and lora.rank == 3 and lora.networks.keys() == made.keys()
    torch.testing.assert_close(paint(fresh), theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_a_merged_folder_paints_the_same(family, dora, folders, tmp_path):
    pipe, file = pipeline(folders[family]), tmp_path / "lora.safetensors"
    config = LoraConfig(rank=3, alpha=1.3, targets="all", text_encoder=True, dora=dora)
    with trained(pipe, family, config) as lora:
        with lora.scaled(0.7):
            ours = paint(pipe)
        write_lora(file, lora.weights(), {}, family=lora.family)
    changed = merge(file, folders[family], tmp_path / "merged", 0.7)
    assert changed == len(read_lora(file).weights)
    torch.testing.assert_close(paint(pipeline(tmp_path / "merged")), ours, atol=2e-5, rtol=0)
    before, after = (
        load_file(next((root / "vae").glob("*.safetensors")))
        for root in (folders[family], tmp_path / "merged")
    )
    assert all(torch.equal(after[key], value) for key, value in before.items())
