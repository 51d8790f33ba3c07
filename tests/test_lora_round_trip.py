"""Every layout of a LoRA that is read, through each format that is written and back: the same effect, to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import test_lora_lycoris as lycoris
import torch
from safetensors.torch import save_file
from torch import Tensor

from rlr_core.errors import CheckpointError
from rlr_core.families import SD1, Place
from rlr_core.lora import read_lora, write_lora
from rlr_core.lora.weights import LayerChange, LayerWeights

LINEAR, CONVOLUTION = Place("unet", lycoris.LINEAR), Place("unet", lycoris.CONVOLUTION)
TEXT = Place("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj")
SHAPES = {LINEAR: (6, 8), CONVOLUTION: (6, 8, 3, 3), TEXT: (768, 768)}
RANKS = {LINEAR: 4, CONVOLUTION: 2, TEXT: 3}
ALPHAS = {LINEAR: 3.0, CONVOLUTION: 0.7, TEXT: 5.0}
KOHYA = {
    LINEAR: "lora_unet_" + LINEAR.path.replace(".", "_"),
    CONVOLUTION: "lora_unet_" + CONVOLUTION.path.replace(".", "_"),
    TEXT: "lora_te_" + TEXT.path.replace(".", "_"),
}
DOTTED = {place: f"{place.network}.{place.path}" for place in SHAPES}
COMFYUI = {
    LINEAR: "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q",
    CONVOLUTION: "diffusion_model.middle_block.0.in_layers.2",
    TEXT: "text_encoders.clip_l.transformer." + TEXT.path,
}
FORMATS = "kohya", "diffusers", "comfyui"

State = dict[str, Tensor]


def layers(dtype: torch.dtype = torch.float32) -> dict[Place, tuple[Tensor, Tensor]]:
    """down and up of each place."""
    torch.manual_seed(0)
    made = {}
    for place, shape in SHAPES.items():
        down = torch.randn(RANKS[place], *shape[1:])
        made[place] = down.to(dtype), torch.randn(shape[0], RANKS[place], *[1] * (len(shape) - 2)).to(dtype)
    return made


def named(
    names: dict[Place, str], down: str, up: str, dtype: torch.dtype = torch.float32, alpha: str = "alpha"
) -> State:
    state = {}
    for place, (a, b) in layers(dtype).items():
        state |= {f"{names[place]}{down}": a, f"{names[place]}{up}": b}
        state |= {f"{names[place]}.{alpha}": torch.tensor(ALPHAS[place])} if alpha else {}
    return state


def kohya(dtype: torch.dtype = torch.float32) -> State:
    return named(KOHYA, ".lora_down.weight", ".lora_up.weight", dtype)


def dora(by_output: bool) -> State:
    norms = {}
    for place, shape in SHAPES.items():
        size = [1] * len(shape)
        axis = 0 if by_output else 1
        size[axis] = shape[axis]
        norms[f"{KOHYA[place]}.dora_scale"] = torch.rand(size) + 0.5
    return {**kohya(), **norms}


def peft(adapter: str = "") -> State:
    middle = f".{adapter}" if adapter else ""
    return named(DOTTED, f".lora_A{middle}.weight", f".lora_B{middle}.weight", alpha="")


def told(**more: object) -> dict[str, str]:
    """What diffusers writes beside it."""
    facts: dict[str, object] = {}
    for network in ("unet", "text_encoder"):
        places = [place for place in SHAPES if place.network == network]
        facts[f"{network}.r"], facts[f"{network}.lora_alpha"] = RANKS[places[0]], ALPHAS[places[0]]
        facts[f"{network}.rank_pattern"] = {place.path: RANKS[place] for place in places[1:]}
        facts[f"{network}.alpha_pattern"] = {place.path: ALPHAS[place] for place in places[1:]}
        facts |= {f"{network}.{name}": value for name, value in more.items()}
    return {"lora_adapter_metadata": json.dumps(facts)}


def one(name: str) -> Callable[[Path], None]:
    """A file of LyCORIS, of one layer."""

    def make(folder: Path) -> None:
        (lycoris.made if name in lycoris.CASES else lycoris.rescaled)(name, folder)

    return make


def of(state: Callable[[], State], metadata: dict[str, str] | None = None) -> Callable[[Path], None]:
    return lambda folder: save_file(state(), folder / "given.safetensors", metadata=metadata)


def peft_folder(folder: Path) -> None:
    """`adapter_config.json` beside the file, for all of its networks."""
    state = {key: value for key, value in peft().items() if LINEAR.path in key}
    save_file(state, folder / "given.safetensors")
    (folder / "adapter_config.json").write_text(
        '{"r": 4, "lora_alpha": 3, "use_rslora": true}', encoding="utf-8"
    )


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "kohya": of(kohya),
    "kohya, half": of(lambda: kohya(torch.float16)),
    "kohya, bfloat16": of(lambda: kohya(torch.bfloat16)),
    "kohya, 8 bits": of(lambda: kohya(torch.float8_e4m3fn)),
    "kohya, 8 bits with a wider range": of(lambda: kohya(torch.float8_e5m2)),
    "comfyui": of(lambda: named(COMFYUI, ".lora_down.weight", ".lora_up.weight")),
    "diffusers": of(peft, told()),
    "diffusers with rslora": of(peft, told(use_rslora=True)),
    "an adapter with a name": of(lambda: peft("default_0"), told()),
    "peft's folder": peft_folder,
    "diffusers, older": of(lambda: named(DOTTED, ".lora.down.weight", ".lora.up.weight")),
    "diffusers, oldest": of(
        lambda: named(DOTTED, ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")
    ),
    "dora of outputs": of(lambda: dora(True)),
    "dora of inputs": of(lambda: dora(False)),
    **{name: one(name) for name in (*lycoris.CASES, *lycoris.RESCALING)},
}
REFUSED = {
    "diffusers": {"dora of inputs", *lycoris.NOT_LOW, *lycoris.UNTOLD, *lycoris.RESCALING},
    "comfyui": set(lycoris.RESCALING),
    "kohya": set(),
}
"""Format → layouts that it cannot have."""


def same_bits(mine: LayerChange, theirs: LayerChange) -> bool:
    pairs = zip(mine.tensors, theirs.tensors, strict=True)
    same = all((torch.equal(a.float().flatten(), b.float().flatten()) and a.dtype == b.dtype) or not a.is_floating_point()
               for a, b in pairs)  # fmt: skip
    return same and mine.scale == pytest.approx(theirs.scale, rel=1e-7) and type(mine) is type(theirs)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_comes_back_from_every_format(name, kind, tmp_path):
    LAYOUTS[name](tmp_path)
    given, out = read_lora(tmp_path / "given.safetensors").weights, tmp_path / "out" / "new.safetensors"
    out.parent.mkdir()
    if name in REFUSED[kind]:
        with pytest.raises(CheckpointError, match="rlr lora merge"):
            write_lora(out, given, {}, family=SD1.lora, kind=kind)
        return
    write_lora(out, given, {}, family=SD1.lora, kind=kind)
    read = read_lora(out)
    assert read.kind == kind and read.weights.keys() == given.keys()
    for place, layer in given.items():
        found, weight = read.weights[place], torch.randn(lycoris.SHAPES.get(place.path, (768, 768)))
        if isinstance(layer, LayerWeights) or kind != "diffusers":
            assert same_bits(layer, found), place
        torch.testing.assert_close(
            found.applied(weight, 0.7), layer.applied(weight, 0.7), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(
    "name", [name for name in LAYOUTS if name not in REFUSED["diffusers"] | set(lycoris.CASES)]
)
def test_a_walk_through_all_formats_changes_no_bit(name, tmp_path):
    LAYOUTS[name](tmp_path)
    first = weights = read_lora(tmp_path / "given.safetensors").weights
    for number, kind in enumerate(("kohya", "diffusers", "comfyui", "diffusers", "kohya")):
        (folder := tmp_path / str(number)).mkdir()
        write_lora(folder / "x.safetensors", weights, {}, family=SD1.lora, kind=kind)
        weights = read_lora(folder / "x.safetensors").weights
    assert all(same_bits(layer, weights[place]) for place, layer in first.items())
    assert any(isinstance(layer, LayerWeights) for layer in first.values())
