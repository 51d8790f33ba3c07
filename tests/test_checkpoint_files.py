"""Files that are no checkpoints are refused by name, hostile ones at once; folders are searched, and what was found is kept."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import ldm
import pytest
import tiny
import torch

from rlr_core.cli import main
from rlr_core.errors import CheckpointError, RLRError
from rlr_core.models import load_model
from rlr_core.models.describing import describe_checkpoint
from rlr_core.models.scan import scan

U = "model.diffusion_model."
UNET = {
    U + "input_blocks.0.0.weight": (320, 4, 3, 3),
    U + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
}
"""Enough of a UNet to be recognised."""


def write(
    path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "F16", metadata: object = None
) -> Path:
    """A file of zeros that take no room on the disk."""
    sizes = {"F16": 2, "F32": 4, "I8": 1, "U8": 1}
    header, place = {}, 0
    for name, shape in shapes.items():
        size = torch.Size(shape).numel() * sizes[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header | ({"__metadata__": metadata} if metadata else {})).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + place)
    return path


def unet(channels: int = 4, width: int = 768) -> dict[str, tuple[int, ...]]:
    return dict(zip(UNET, [(320, channels, 3, 3), (320, width)], strict=True))


REFUSED = {
    "inpainting": (unet(9), "an inpainting checkpoint", "text-to-image version"),
    "XL inpainting": (unet(9, 2048), "an inpainting checkpoint", "text-to-image version"),
    "edits": (unet(8), "an InstructPix2Pix checkpoint", "text-to-image version"),
    "depth": (unet(5, 1024), "a depth-to-image checkpoint", "text-to-image version"),
    "upscaler": (unet(7, 1024), "an upscaler", "text-to-image version"),
    "refiner": (unet(4, 1280), "the SDXL refiner", "text-to-image version"),
    "unknown width": (unet(4, 999), r"texts of width \[999\]", "another file"),
    "Playground": (unet(4, 2048) | {"edm_mean": (4,)}, "Playground 2.5", "not supported yet"),
    "CosXL": (unet(4, 2048) | {"edm_vpred.sigma_max": (1,)}, "CosXL", "not supported yet"),
    "SVD": (unet() | {U + "input_blocks.1.0.time_stack.in_layers.0.bias": (9,)}, "video", "not supported yet"),
    "ControlNet": ({"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "a ControlNet", "belongs to"),
    "LoRA": ({"lora_unet_down_blocks_0_attn1_to_q.lora_down.weight": (8, 320)}, "a LoRA", "belongs to"),
    "PEFT LoRA": ({"unet.down_blocks.0.attn1.to_q.lora_A.weight": (8, 320)}, "a LoRA", "belongs to"),
    "LoKr": ({"lycoris_down_blocks_0.lokr_w1": (8, 320)}, "a LoRA", "belongs to"),
    "embedding": ({"emb_params": (4, 768)}, "a textual inversion embedding", "belongs to"),
    "XL embedding": ({"clip_g": (4, 1280), "clip_l": (4, 768)}, "a textual inversion embedding", "belongs to"),
    "VAE": ({"encoder.down.0.block.0.conv1.weight": (9,)}, "a VAE", "set model.vae"),
    "VAE in a prefix": ({"first_stage_model.decoder.up.0.block.0.conv1.bias": (9,)}, "a VAE", "set model.vae"),
    "diffusers VAE": ({"encoder.down_blocks.0.resnets.0.conv1.bias": (9,)}, "a VAE", "set model.vae"),
    "text encoder": ({"text_model.encoder.layers.0.mlp.fc1.bias": (9,)}, "a text encoder", "belongs to"),
    "T5": ({"encoder.block.0.layer.0.SelfAttention.q.weight": (9, 9)}, "a text encoder", "belongs to"),
    "diffusers UNet": ({"down_blocks.0.resnets.0.conv1.bias": (9,)}, "the UNet of a diffusers", "whole folder"),
    "FLUX": ({U + "double_blocks.0.img_attn.norm.key_norm.scale": (9,)}, "a FLUX checkpoint", "not supported"),
    "bare FLUX": ({"double_blocks.0.img_attn.norm.key_norm.scale": (9,)}, "a FLUX checkpoint", "not supported"),
    "SD3": ({U + "joint_blocks.0.x_block.mlp.fc1.weight": (9, 9)}, "a Stable Diffusion 3", "not supported"),
    "Wan": ({U + "head.modulation": (1, 2, 1536)}, r"a Wan checkpoint \(video\)", "not supported"),
    "LTX": ({U + "patchify_proj.weight": (9, 9)}, "LTX-Video", "not supported"),
    "HunyuanVideo": ({"individual_token_refiner.x": (9,), "double_blocks.0.img_attn.x": (9,)}, "Hunyuan", "not supported"),
    "scaled fp8": (unet() | {"scaled_fp8": (2,)}, "quantised", "in fp16, bf16 or fp32"),
    "nothing known": ({"weight": (9,)}, "holds nothing that is known: 1 tensors", "another file"),
}  # fmt: skip
"""Name → tensors, what the error calls it, what it says to do."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_checkpoint_is_refused_by_name(tmp_path, name):
    shapes, what, do = REFUSED[name]
    path = write(tmp_path / "file – Größe.safetensors", shapes)
    for refusing in (
        describe_checkpoint,
        lambda path: load_model(str(path), device="cpu", dtype=torch.float32),
    ):
        with pytest.raises(CheckpointError, match=rf"{what}[\s\S]*what to do: [\s\S]*{do}") as caught:
            refusing(path)
        assert str(path) in str(caught.value)


def test_whole_numbers_are_quantised_weights(tmp_path):
    with pytest.raises(CheckpointError, match="quantised: its weights are I8"):
        describe_checkpoint(write(tmp_path / "a.safetensors", UNET, "I8"))


def test_gguf_and_pickles(tmp_path, capsys):
    gguf, pickle = tmp_path / "a.gguf", tmp_path / "a.ckpt"
    gguf.write_bytes(b"GGUF\3\0\0\0" + bytes(100))
    torch.save({}, pickle)
    for path, message in ((gguf, "GGUF file [\\s\\S]*in fp16, bf16"), (pickle, "model.allow_pickle = true")):
        with pytest.raises(CheckpointError, match=message):
            describe_checkpoint(path)
    with pytest.raises(CheckpointError, match="nothing that is known: 0 tensors"):
        describe_checkpoint(pickle, allow_pickle=True)


def test_ten_thousand_tensors_and_hostile_texts(tmp_path, capsys):
    shapes = UNET | {f"\x1b[31m{k}": (1,) for k in range(10_000)}
    metadata = {
        "modelspec.resolution": "9" * 100_000 + "x1",
        "modelspec.prediction_type": "\x1b]0;owned\x07" * 1000,
    }
    path = write(tmp_path / "a.safetensors", shapes, metadata=metadata)
    began = time.process_time()
    described = describe_checkpoint(path)
    assert time.process_time() - began < 1
    assert described.size == 512 and described.prediction == "epsilon"
    assert main(["checkpoint", "info", str(path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_fuzzed_headers_give_errors_and_no_tracebacks(tmp_path):
    """Of what the header's reader lets pass, the detection takes anything, too."""
    chance = random.Random(0)
    names = [*UNET, "v_pred", "first_stage_model.encoder.conv_in.weight", "model_ema.diffusion_modelout0bias"]
    words = [
        *names,
        "cond_stage_model.model.x",
        "conditioner.embedders.1.model.x",
        "edm_mean",
        ".lora_down.",
        U,
    ]
    outcomes = set()
    for _ in range(300):
        shapes = {
            name[: chance.randint(1, 60)] if chance.random() < 0.2 else name: tuple(
                chance.choice([0, 1, 3, 4, 9, 320, 768, 1024, 2048])
                for _ in range(chance.choice([0, 1, 2, 2, 2]))
            )
            for name in chance.sample(words, chance.randint(0, len(words)))
        }
        if chance.random() < 0.5:
            shapes |= unet(4, chance.choice([768, 1024, 2048]))
        path = write(tmp_path / "v2 fuzz.safetensors", shapes, chance.choice(["F16", "F32", "U8"]))
        began = time.process_time()
        try:
            outcomes.add(describe_checkpoint(path).family)
        except RLRError as error:
            outcomes.add(type(error).__name__)
        assert time.process_time() - began < 1
    assert "CheckpointError" in outcomes and len(outcomes) > 1


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RLR_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "my models – Größe 名前"
    (folder / "deep" / "er").mkdir(parents=True)
    write(folder / "one.safetensors", UNET)
    write(folder / "deep" / "er" / "zwei – Ü 名.SAFETENSORS", unet(4, 1024))
    write(folder / "deep" / "lora.safetensors", {"a.lora_down.weight": (1, 1)})
    (folder / "notes.txt").write_text("no checkpoint", encoding="utf-8")
    return folder


def names(found) -> list[str]:
    return [each.path.name for each in found if each.description]


def test_folders_are_searched_with_all_that_is_in_them(library):
    tiny.build_checkpoint(library / "deep" / "a folder")
    found = scan([library])
    assert names(found) == ["a folder", "zwei – Ü 名.SAFETENSORS", "one.safetensors"]
    (other,) = [each for each in found if not each.description]
    assert other.path.name == "lora.safetensors" and "is a LoRA" in other.problem
    folder = found[0].description
    assert folder and (folder.layout, folder.precision, folder.size, folder.missing) == (
        "folder",
        "fp32",
        16,
        (),
    )


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege there")
def test_links_are_followed_and_loops_end(library, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    write(outside / "far.safetensors", UNET)
    (library / "link").symlink_to(outside)
    (library / "deep" / "loop").symlink_to(library)
    (outside / "back").symlink_to(library / "deep")
    (library / "again.safetensors").symlink_to(library / "one.safetensors")
    (library / "broken.safetensors").symlink_to(tmp_path / "gone")
    found = scan([library, library])
    listed = names(found)
    assert sorted(listed, key=str.casefold)[-1].startswith("zwei") and "far.safetensors" in listed
    assert len({"one.safetensors", "again.safetensors"} & set(listed)) == 1 and len(listed) == 3
    assert any("there is no checkpoint" in each.problem for each in found)


def test_what_has_not_changed_is_not_read_again(library, monkeypatch):
    first = scan([library])
    read = []
    from rlr_core.models import scan as module

    monkeypatch.setattr(
        module, "describe_checkpoint", lambda path: read.append(path.name) or describe_checkpoint(path)
    )
    assert scan([library]) == first and read == []
    write(library / "one.safetensors", unet(4, 2048) | {"more": (2,)})
    os.utime(library / "one.safetensors", ns=(1, 1))
    again = scan([library])
    assert read == ["one.safetensors"] and again[-1].description.family == "Stable Diffusion XL"
    (library / "one.yaml").write_text("parameterization: v", encoding="utf-8")
    assert scan([library])[-1].description.prediction == "v_prediction"


@pytest.mark.parametrize("content", ["", "[]", "no files", '{"detection": []}', "damaged"])
def test_a_damaged_cache_is_made_anew(library, tmp_path, content):
    first = scan([library])
    cache = tmp_path / "cache" / "rlr" / "checkpoints.json"
    files = json.loads(cache.read_text(encoding="utf-8"))
    content = json.dumps({**files, "files": 3}) if content == "no files" else content
    cache.write_text(content, encoding="utf-8")
    assert scan([library]) == first
    for entry in files["files"].values():
        entry["description"] = {"family": 1}
    cache.write_text(json.dumps(files), encoding="utf-8")
    assert scan([library]) == first


def test_a_cache_that_cannot_be_written_is_done_without(library, tmp_path):
    (tmp_path / "cache").write_text("in the way", encoding="utf-8")
    assert len(names(scan([library]))) == 2


def test_commands(library, capsys):
    assert main(["checkpoints", str(library)]) == 0
    out = capsys.readouterr().out
    assert "Stable Diffusion 2.x" in out and "zwei – Ü 名" in out and "2 checkpoints; 1 other files" in out
    assert main(["checkpoints", str(library), "--all"]) == 0
    assert "is a LoRA" in capsys.readouterr().out
    assert main(["checkpoint", "info", str(library / "one.safetensors")]) == 0
    out = capsys.readouterr().out
    for part in (
        "Stable Diffusion 1.x",
        "epsilon (usual for the family)",
        "512 × 512",
        "fp16",
        "unet (2 of 686",
    ):
        assert part in out
    assert main(["checkpoints", str(library / "absent")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_folder_without_a_vae_or_of_another_family(tmp_path):
    folder = tiny.build_checkpoint(tmp_path / "tiny")
    assert describe_checkpoint(folder).missing == () and ldm.VAE
    (folder / "vae").rename(folder / "elsewhere")
    assert describe_checkpoint(folder).missing == ("vae",)
    index = folder / "model_index.json"
    for kind in ("FluxPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionXLImg2ImgPipeline"):
        index.write_text(json.dumps({"_class_name": kind}), encoding="utf-8")
        with pytest.raises(CheckpointError, match=f"is a checkpoint for {kind}"):
            describe_checkpoint(folder)
