"""LyCORIS's adapters change a layer as the formulas say, in every format that can have them, whoever computes them."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlr_core.cli import main
from rlr_core.errors import CheckpointError
from rlr_core.families import FAMILIES, SD1, Component, Place, Role
from rlr_core.lora import load_lora, read_lora, write_lora
from rlr_core.lora.hooked_lora import HookedLora
from rlr_core.lora.info import lora_report
from rlr_core.lora.merge import merge

LINEAR = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONVOLUTION = "mid_block.resnets.0.conv1"
ORIGINAL = {
    LINEAR: "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q",
    CONVOLUTION: "model.diffusion_model.middle_block.0.in_layers.2",
}
TELLING = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
SHAPES = {LINEAR: (6, 8), CONVOLUTION: (6, 8, 3, 3)}
RANK, ALPHA = 2, 3.0
SCALE = ALPHA / RANK
TUCKER = "ij...,io,jn->on..."
"""`rebuild_tucker` (LyCORIS, `functional/general.py`)."""

State = dict[str, Tensor]


def loha(n: int) -> tuple[State, Tensor]:
    """`HadaWeight`, with (out, in · k · k) as in the file."""
    a1, b1, a2, b2 = (
        torch.randn(6, RANK),
        torch.randn(RANK, n),
        torch.randn(6, RANK),
        torch.randn(RANK, n),
    )
    names = "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"
    return dict(zip(names, (a1, b1, a2, b2), strict=True)), SCALE * (a1 @ b1) * (a2 @ b2)


def loha_with_cores() -> tuple[State, Tensor]:
    """`HadaWeightTucker`."""
    names = "hada_w1_a", "hada_w1_b", "hada_t1", "hada_w2_a", "hada_w2_b", "hada_t2"
    sizes = (RANK, 6), (RANK, 8), (RANK, RANK, 3, 3)
    state = {name: torch.randn(size) for name, size in zip(names, sizes * 2, strict=True)}
    one, other = (
        torch.einsum(TUCKER, state[f"hada_t{n}"], state[f"hada_w{n}_a"], state[f"hada_w{n}_b"])
        for n in (1, 2)
    )
    return state, SCALE * one * other


def kron(one: Tensor, two: Tensor) -> Tensor:
    """w1[o, i] · w2[p, j, …] at row o·P + p and column i·J + j, written out."""
    product = torch.einsum("oi,pj...->opij...", one, two)
    return product.reshape(one.shape[0] * two.shape[0], one.shape[1] * two.shape[1], *two.shape[2:])


def lokr(
    first: bool, second: str, places: tuple[int, ...], one: tuple[int, int] = (2, 4)
) -> tuple[State, Tensor]:
    """`LokrModule`: either part whole, or a product; w2 of a convolution with a core, too."""
    (o, i), p, j = one, 6 // one[0], 8 // one[1]
    state: State = {}
    if first:
        w1 = state["lokr_w1"] = torch.randn(o, i)
    else:
        state |= {"lokr_w1_a": torch.randn(o, RANK), "lokr_w1_b": torch.randn(RANK, i)}
        w1 = state["lokr_w1_a"] @ state["lokr_w1_b"]
    if second == "whole":
        w2 = state["lokr_w2"] = torch.randn(p, j, *places)
    elif second == "core":
        state |= {"lokr_w2_a": torch.randn(RANK, p), "lokr_w2_b": torch.randn(RANK, j)}
        state["lokr_t2"] = torch.randn(RANK, RANK, *places)
        w2 = torch.einsum(TUCKER, state["lokr_t2"], state["lokr_w2_a"], state["lokr_w2_b"])
    else:
        state |= {"lokr_w2_a": torch.randn(p, RANK), "lokr_w2_b": torch.randn(RANK, j * math.prod(places))}
        w2 = (state["lokr_w2_a"] @ state["lokr_w2_b"]).reshape(p, j, *places)
    return state, (1 if first and second == "whole" else SCALE) * kron(w1, w2)


def locon_with_a_core() -> tuple[State, Tensor]:
    """`tucker_weight_from_conv`."""
    up, down, core = torch.randn(6, RANK, 1, 1), torch.randn(RANK, 8, 1, 1), torch.randn(RANK, RANK, 3, 3)
    delta = SCALE * torch.einsum("mn...,im,nj->ij...", core, up.flatten(1), down.flatten(1))
    return {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": core}, delta


def full(*shape: int) -> tuple[State, Tensor]:
    """`FullModule`, which has no scale."""
    delta = torch.randn(shape)
    return {"diff": delta}, delta


CASES = {
    "loha": (LINEAR, lambda: loha(8)),
    "loha of a convolution": (CONVOLUTION, lambda: loha(72)),
    "loha with cores": (CONVOLUTION, loha_with_cores),
    "lokr": (LINEAR, lambda: lokr(True, "whole", ())),
    "lokr, w1 high": (LINEAR, lambda: lokr(True, "product", (), (6, 2))),
    "lokr, w2 a product": (LINEAR, lambda: lokr(True, "product", ())),
    "lokr, w1 a product": (LINEAR, lambda: lokr(False, "whole", ())),
    "lokr, both products": (LINEAR, lambda: lokr(False, "product", ())),
    "lokr of a convolution": (CONVOLUTION, lambda: lokr(True, "whole", (3, 3))),
    "lokr of a convolution, w2 a product": (CONVOLUTION, lambda: lokr(True, "product", (3, 3))),
    "lokr of full rank": (LINEAR, lambda: lokr(True, "whole", (), (3, 4))),
    "lokr with a core": (CONVOLUTION, lambda: lokr(True, "core", (3, 3))),
    "locon with a core": (CONVOLUTION, locon_with_a_core),
    "full": (LINEAR, lambda: full(6, 8)),
    "full of a convolution": (CONVOLUTION, lambda: full(6, 8, 3, 3)),
}
RESCALING = {
    "rows": (LINEAR, False),
    "columns": (LINEAR, True),
    "rows of a convolution": (CONVOLUTION, False),
    "columns of a convolution": (CONVOLUTION, True),
}
NOT_LOW = "lokr of full rank", "lokr of a convolution", "full", "full of a convolution"
UNTOLD = ("loha of a convolution", "lokr of a convolution, w2 a product")


def written(file: Path, path: str, state: State) -> Path:
    stem = "lora_unet_" + path.replace(".", "_")
    save_file({f"{stem}.{name}": value.contiguous() for name, value in state.items()}, file)
    return file


def made(name: str, folder: Path) -> tuple[Path, str, Tensor]:
    """A file of a case with alpha 3 and rank 2; its layer, and ΔW by the formula, in the layer's shape."""
    torch.manual_seed(0)
    path, build = CASES[name]
    state, delta = build()
    alpha = {} if "diff" in state else {"alpha": torch.tensor(ALPHA)}
    return written(folder / "given.safetensors", path, {**state, **alpha}), path, delta.reshape(SHAPES[path])


def rescaled(name: str, folder: Path) -> tuple[Path, str, Tensor]:
    """A file of (IA)³; its layer, and what W is multiplied with less 1 (`_ia3_weight`)."""
    torch.manual_seed(0)
    path, on_input = RESCALING[name]
    shape = SHAPES[path]
    count = shape[int(on_input)]
    scales = torch.randn(1, count, *[1] * (len(shape) - 2)) if len(shape) > 2 else torch.randn(count)
    state = {"weight": scales, "on_input": torch.tensor(int(on_input))}
    factor = scales.reshape([-1 if axis == int(on_input) else 1 for axis in range(len(shape))])
    return written(folder / "given.safetensors", path, state), path, factor


def merged(file: Path, path: str, weight: Tensor, folder: Path, strength: float = 1.0) -> Tensor:
    """A checkpoint's layer after `rlr lora merge`."""
    state = {f"{ORIGINAL[path]}.weight": weight, TELLING: torch.zeros(4, 768)}
    save_file(state, folder / "base.safetensors")
    merge(file, folder / "base.safetensors", folder / "out.safetensors", strength, force=True)
    return load_file(folder / "out.safetensors")[f"{ORIGINAL[path]}.weight"]


def network(path: str, module: nn.Module) -> nn.Module:
    """A UNet of one layer."""
    *parts, last = path.split(".")
    tree: nn.Module = nn.ModuleDict({last: module})
    for part in reversed(parts):
        tree = nn.ModuleList([tree]) if part.isdigit() else nn.ModuleDict({part: tree})
    return tree


def layer(path: str) -> nn.Linear | nn.Conv2d:
    return nn.Linear(8, 6) if path == LINEAR else nn.Conv2d(8, 6, 3, padding=1)


def inputs(path: str) -> Tensor:
    return torch.randn(5, 8) if path == LINEAR else torch.randn(2, 8, 4, 4)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["", "kohya", "comfyui"])
def test_a_merged_layer_is_that_of_the_formula(name, kind, tmp_path):
    file, path, delta = made(name, tmp_path)
    if kind:
        before = {key: value for key, value in load_file(file).items() if not key.endswith("alpha")}
        write_lora(tmp_path / "new.safetensors", read_lora(file).weights, {}, family=SD1.lora, kind=kind)
        file = tmp_path / "new.safetensors"
        after = list(load_file(file).values())
        assert all(any(torch.equal(value, other) for other in after) for value in before.values())
    weight = torch.randn(SHAPES[path])
    found = merged(file, path, weight, tmp_path, 0.5)
    torch.testing.assert_close(found, weight + 0.5 * delta, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", RESCALING)
@pytest.mark.parametrize("kind", ["", "kohya"])
def test_rescaling_multiplies_rows_or_columns(name, kind, tmp_path):
    file, path, factor = rescaled(name, tmp_path)
    if kind:
        write_lora(tmp_path / "new.safetensors", read_lora(file).weights, {}, family=SD1.lora, kind=kind)
        file = tmp_path / "new.safetensors"
    weight = torch.randn(SHAPES[path])
    torch.testing.assert_close(merged(file, path, weight, tmp_path, 0.5), weight * (1 + 0.5 * factor))


@pytest.mark.parametrize("name", [*CASES, *RESCALING])
def test_an_injected_layer_is_that_of_the_formula(name, tmp_path):
    file, path, delta = (made if name in CASES else rescaled)(name, tmp_path)
    module, x = layer(path), inputs(path)
    if name in RESCALING:
        delta = module.weight.detach() * delta
    changed = layer(path)
    changed.load_state_dict({"weight": module.weight.detach() + 0.5 * delta, "bias": module.bias.detach()})
    tree = network(path, module)
    model = SimpleNamespace(components=[Component("unet", Role.DENOISER, tree)], lora_family=SD1.lora)
    with pytest.warns(UserWarning, match="is computed as the LoRA of rank"):
        lora = load_lora(file, model, HookedLora)  # pyright: ignore[reportArgumentType]
    with lora.scaled(0.5):
        torch.testing.assert_close(module(x), changed(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in CASES if name not in (*NOT_LOW, *UNTOLD)])
def test_what_has_a_low_rank_is_a_lora_in_the_format_of_diffusers(name, tmp_path):
    file, path, delta = made(name, tmp_path)
    new = tmp_path / "new.safetensors"
    write_lora(new, read_lora(file).weights, {}, family=SD1.lora, kind="diffusers")
    assert {key.rsplit(".", 2)[1] for key in load_file(new)} == {"lora_A", "lora_B"}
    found = read_lora(new).weights[Place("unet", path)].delta()
    torch.testing.assert_close(found, delta, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "places"), [("sd1", (1, 1)), ("sd2", ())])
def test_a_convolution_of_one_place_stays_one_for_peft(family, places, tmp_path):
    """Its places are not in the file; in 1.x `proj_in` is a convolution, and from 2.x on a linear layer."""
    torch.manual_seed(0)
    state, delta = loha(8)
    file = written(
        tmp_path / "x.safetensors", "mid_block.attentions.0.proj_in", {**state, "alpha": torch.tensor(ALPHA)}
    )
    new = tmp_path / "new.safetensors"
    write_lora(new, read_lora(file).weights, {}, family=FAMILIES[family].lora, kind="diffusers")
    down, up = (value for _, value in sorted(load_file(new).items()))
    assert down.shape == (RANK**2, 8, *places) and up.shape == (6, RANK**2, *places)
    torch.testing.assert_close(next(iter(read_lora(new).weights.values())).delta().reshape(6, 8), delta)


@pytest.mark.parametrize("name", [*NOT_LOW, *UNTOLD, *RESCALING])
def test_what_a_format_cannot_have_is_refused(name, tmp_path):
    file = (made if name in CASES else rescaled)(name, tmp_path)[0]
    weights, new = read_lora(file).weights, tmp_path / "new.safetensors"
    for kind in ("diffusers", "comfyui") if name in RESCALING else ("diffusers",):
        with pytest.raises(CheckpointError, match="rlr lora merge"):
            write_lora(new, weights, {}, family=SD1.lora, kind=kind)
    assert not new.exists()


@pytest.mark.parametrize("name", ["loha", "lokr", "lokr, w2 a product", "locon with a core"])
def test_the_norms_of_a_dora_are_those_of_the_changed_rows(name, tmp_path):
    file, path, delta = made(name, tmp_path)
    norms = torch.rand(6, *[1] * (delta.dim() - 1)) + 0.5
    stem = "lora_unet_" + path.replace(".", "_")
    save_file({**load_file(file), f"{stem}.dora_scale": norms}, file)
    weight = torch.randn(SHAPES[path])
    whole = weight + delta
    expected = whole * (norms / whole.flatten(1).norm(dim=1).reshape(norms.shape))
    torch.testing.assert_close(merged(file, path, weight, tmp_path), expected, atol=1e-5, rtol=1e-5)


def test_full_weights_change_the_bias_when_they_are_merged(tmp_path):
    file = written(
        tmp_path / "x.safetensors", LINEAR, {"diff": torch.ones(6, 8), "diff_b": torch.arange(6.0)}
    )
    name = ORIGINAL[LINEAR]
    base = {f"{name}.weight": torch.zeros(6, 8), f"{name}.bias": torch.ones(6), TELLING: torch.zeros(4, 768)}
    save_file(base, tmp_path / "base.safetensors")
    merge(file, tmp_path / "base.safetensors", tmp_path / "out.safetensors", 0.5)
    found = load_file(tmp_path / "out.safetensors")
    assert torch.equal(found[f"{name}.bias"], 1 + 0.5 * torch.arange(6.0))
    assert torch.equal(found[f"{name}.weight"], torch.full((6, 8), 0.5))
    for kind in ("kohya", "comfyui"):
        new = tmp_path / f"{kind}.safetensors"
        write_lora(new, read_lora(file).weights, {}, family=SD1.lora, kind=kind)
        assert any(key.endswith(".diff_b") for key in load_file(new))


def test_a_bias_that_nothing_can_take_is_refused(tmp_path):
    file = written(tmp_path / "x.safetensors", LINEAR, {"diff": torch.ones(6, 8), "diff_b": torch.ones(6)})
    with pytest.raises(CheckpointError, match="lacks 1 of the LoRA's 2 layers"):
        merged(file, LINEAR, torch.zeros(6, 8), tmp_path)
    tree = network(LINEAR, nn.Linear(8, 6))
    model = SimpleNamespace(components=[Component("unet", Role.DENOISER, tree)], lora_family=SD1.lora)
    with pytest.raises(CheckpointError, match="has a bias of its own"):
        load_lora(file, model)  # pyright: ignore[reportArgumentType]
    with pytest.raises(CheckpointError, match="with a bias"):
        write_lora(tmp_path / "d.safetensors", read_lora(file).weights, {}, family=SD1.lora, kind="diffusers")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"oft_blocks": torch.ones(2, 3, 3)}, "is a Diag-OFT of LyCORIS"),
        ({"oft_blocks": torch.ones(2, 2, 3, 3)}, "is a BOFT of LyCORIS"),
        ({"oft_diag": torch.ones(2, 3, 3)}, "is a Diag-OFT of LyCORIS"),
        ({"a1.weight": torch.ones(2, 2)}, "is a GLoRA of LyCORIS"),
        ({"q_layer.weight": torch.ones(2, 2)}, "is a T-LoRA of LyCORIS"),
        ({"diff": torch.ones(6, 8), "w_norm": torch.ones(6)}, "norms of its own"),
        ({**loha(8)[0], "scalar": torch.ones(())}, "with a scalar apart"),
    ],
)  # fmt: skip
def test_other_kinds_are_refused_by_name(state, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        read_lora(written(tmp_path / "x.safetensors", LINEAR, state))


@pytest.mark.parametrize(
    "change",
    [
        {"hada_w2_b": None},
        {"hada_t1": torch.ones(2, 2, 3, 3)},
        {"hada_w2_a": torch.ones(1, 2)},
        {"hada_w2_b": torch.ones(2, 9)},
        {"hada_w1_a": torch.ones(6, 2, 1)},
        {"hada_w1_a": torch.ones(6, 0), "hada_w1_b": torch.ones(0, 8)},
        {"hada_w1_a": torch.ones(6, 2, dtype=torch.int32)},
        {"hada_w1_a": torch.ones(20_000, 2), "hada_w2_a": torch.ones(20_000, 2),
         "hada_w1_b": torch.ones(2, 20_000), "hada_w2_b": torch.ones(2, 20_000)},
        {"lokr_w1": torch.ones(2, 2)},
        {"diff": torch.ones(6, 8)},
        {"alpha": torch.tensor(float("inf"))},
        {"dora_scale": torch.ones(1, 7)},
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(change, tmp_path):
    state = {name: value for name, value in {**loha(8)[0], **change}.items() if value is not None}
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        read_lora(written(tmp_path / "x.safetensors", LINEAR, state))


@pytest.mark.parametrize(
    "state",
    [
        {"weight": torch.ones(6)},
        {"weight": torch.ones(6, 8), "on_input": torch.tensor(0)},
        {"weight": torch.ones(6), "on_input": torch.tensor(2)},
        {"diff": torch.ones(6, 8), "diff_b": torch.ones(8)},
        {"diff": torch.ones(6)},
        {"lokr_w1": torch.ones(2, 2, 3, 3), "lokr_w2": torch.ones(3, 4)},
        {"lokr_w1": torch.ones(2, 2), "lokr_w2": torch.ones(3, 4, 3)},
        {"lokr_w1": torch.ones(2, 2), "lokr_w2_a": torch.ones(3, 2), "lokr_w2_b": torch.ones(3, 4)},
        {"lora_up.weight": torch.ones(6, 2), "lora_down.weight": torch.ones(2, 8), "lora_mid.weight": torch.ones(3, 2, 3, 3)},
    ],
)  # fmt: skip
def test_other_tensors_that_do_not_fit_are_refused(state, tmp_path):
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        read_lora(written(tmp_path / "x.safetensors", LINEAR, state))


@pytest.mark.parametrize("path", [LINEAR, CONVOLUTION])
def test_rescaling_of_another_layer_is_refused(path, tmp_path):
    file = written(tmp_path / "x.safetensors", path, {"weight": torch.ones(5), "on_input": torch.tensor(0)})
    with pytest.raises(CheckpointError, match="5 × any"):
        merged(file, path, torch.zeros(SHAPES[path]), tmp_path)


def test_info_says_which_adapter_it_is(tmp_path):
    report = lora_report(made("lokr, w2 a product", tmp_path)[0])
    assert "adapter:   LoKr" in report and "rank:      2" in report and "alpha:     3" in report
    delta = made("loha", tmp_path)[2]
    assert f"norm:      {float(delta.norm()):.4g} in all" in lora_report(made("loha", tmp_path)[0])
    assert "adapter:   (IA)³" in lora_report(rescaled("rows", tmp_path)[0])


@pytest.mark.parametrize("name", ["loha", "lokr, both products", "locon with a core", "full", "lokr"])
def test_the_command_line_folds_alpha_and_changes_the_precision(name, tmp_path):
    file, path, delta = made(name, tmp_path)
    out = tmp_path / "new.safetensors"
    assert (
        main(["lora", "convert", str(file), str(out), "--fold", "--dtype", "float16", "--family", "sd1"]) == 0
    )
    found = read_lora(out).weights[Place("unet", path)]
    assert found.scale == 1 and found.tensors[0].dtype == torch.float16
    torch.testing.assert_close(found.delta(), delta, atol=0.05, rtol=0.01)


@pytest.mark.parametrize("name", CASES)
def test_lycoris_itself_computes_the_same(name, tmp_path):
    """Its modules, found by the names in a file; its function for a LoKr, whose module chooses its parts' sizes itself."""
    lycoris, functional = (pytest.importorskip(f"lycoris.{part}") for part in ("modules", "functional.lokr"))
    file, path, delta = made(name, tmp_path)
    state = {"x." + key.split(".", 1)[1]: value for key, value in load_file(file).items()}
    with torch.no_grad():
        if "lokr" in name:
            parts = (
                state.get(f"x.lokr_{part}") for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
            )
            whole = "x.lokr_w1" in state and "x.lokr_w2" in state
            theirs = functional.kron_weight(*parts, scale=1.0 if whole else SCALE)
        else:
            module = lycoris.make_module(*lycoris.get_module(state, "x"), "x", layer(path))
            loha = hasattr(module, "hada_w1_a")  # whose `get_diff_weight` has the scale twice
            theirs = module.get_weight(module.shape) if loha else module.get_diff_weight()[0]
    torch.testing.assert_close(theirs.reshape(delta.shape), delta, atol=1e-5, rtol=1e-5)


def test_diffusers_computes_a_converted_loha_as_a_merged_folder(tmp_path):
    """Linear layers and convolutions of one place, on a whole UNet; and `rlr sample` paints with it."""
    diffusers, tiny = pytest.importorskip("diffusers"), pytest.importorskip("tiny")
    folder = tiny.build_checkpoint(tmp_path / "checkpoint")
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    torch.manual_seed(0)
    state: State = {}
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and (
            "attn" in name or name.endswith(("proj_in", "shortcut"))
        ):
            rows, columns, stem = (
                len(module.weight),
                module.weight[0].numel(),
                "lora_unet_" + name.replace(".", "_"),
            )
            for n in (1, 2):
                state[f"{stem}.hada_w{n}_a"] = 0.3 * torch.randn(rows, RANK)
                state[f"{stem}.hada_w{n}_b"] = 0.3 * torch.randn(RANK, columns)
            state[f"{stem}.alpha"] = torch.tensor(1.0)
    given, new, merged_folder = (
        tmp_path / "loha.safetensors",
        tmp_path / "new.safetensors",
        tmp_path / "merged",
    )
    save_file(state, given)
    assert main(["lora", "convert", str(given), str(new), "--to", "diffusers", "--family", "sd1"]) == 0
    assert main(["lora", "merge", str(given), str(folder), str(merged_folder)]) == 0
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.load_lora_weights(str(new))
    pipeline.fuse_lora()
    inside = torch.randn(1, 4, 8, 8), torch.tensor(5), torch.randn(1, 3, unet.config.cross_attention_dim)
    with torch.no_grad():
        found, plain = pipeline.unet(*inside).sample, unet(*inside).sample
        changed = diffusers.UNet2DConditionModel.from_pretrained(merged_folder, subfolder="unet")(
            *inside
        ).sample
    torch.testing.assert_close(found, changed, atol=1e-5, rtol=1e-5)
    assert (found - plain).abs().max() > 0.05
    command = [
        "sample",
        "a",
        "--lora",
        str(given),
        "--out",
        str(tmp_path / "out"),
        "--set",
        f"model.checkpoint={folder}",
    ]
    assert main([*command, "--set", "sampling.size=16", "--set", "sampling.steps=2"]) == 0
