"""Published rewards against the authors' own code, which runs in environments of its own, on identical small weights.

Needs a network (the package index) and some minutes: set RLR_PARITY to a folder for the environments, which are kept there.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rlr_core.bench.random_weights import published_shapes
from rlr_core.rewards import PUBLISHED
from rlr_core.rewards.networks import Placement
from rlr_core.rewards.preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    Fit,
    cropped,
    cropped_as_torchvision,
    padded,
    prepare,
)
from rlr_core.rewards.published import Scorer

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        not os.environ.get("RLR_PARITY"), reason="RLR_PARITY names no folder for environments"
    ),
    pytest.mark.timeout(1800),
]

ORACLES = Path(__file__).parent / "oracles"
PROMPT = "a red cat, sitting"
SIZES = {"square": (512, 512), "wide": (637, 384), "tall": (384, 637)}
"""Width and height. 637 is resized to 371, whose margin is odd: the two ways of halving it differ."""
TORCH = (f"torch=={torch.__version__.split('+')[0]}", "numpy<2", "pillow")
OLD = (*TORCH, "torchvision", "transformers==4.30.2", "clip-anytorch==2.6.0", "setuptools<81")
PACKAGES = {
    "imagereward": (*OLD, "timm==0.6.13", "fairscale==0.4.13", "--no-deps image-reward==1.5"),
    "hpsv2": (*TORCH, "torchvision", "hpsv2==1.2.0", "setuptools"),
    "clip": OLD,
}
"""Oracle → what is installed for it. The package `image-reward` asks for much that its model does not need."""


@functools.cache
def environment(name: str) -> Path:
    """The Python of an oracle's environment."""
    folder = Path(os.environ["RLR_PARITY"]) / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "complete").exists():
        tools = Path(__file__).parents[1] / ".venv-tools" / "bin"
        uv = shutil.which("uv", path=f"{tools}{os.pathsep}{os.environ['PATH']}")
        assert uv, "uv is needed"
        subprocess.run([uv, "venv", "--clear", "--python", "3.11", str(folder)], check=True)
        plain = [each for each in PACKAGES[name] if not each.startswith("--")]
        subprocess.run([uv, "pip", "install", "--python", str(python), *plain], check=True)
        for each in set(PACKAGES[name]) - set(plain):
            subprocess.run([uv, "pip", "install", "--python", str(python), *each.split()], check=True)
        (folder / "complete").touch()
    return python


def natural(width: int, height: int, seed: int) -> Image.Image:
    """A picture with the spectrum of a photograph (1/f), in 8 bits."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = 1
    noise = np.fft.fft2(random.standard_normal((3, height, width))) / frequency
    values = np.fft.ifft2(noise).real
    values = 0.5 + 0.22 * (values - values.mean()) / values.std()
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Oracle → its folder with weights and answers."""

    @functools.cache
    def run(name: str) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path_factory.mktemp(name)
        for seed, (shape, size) in enumerate(SIZES.items()):
            natural(*size, seed).save(folder / f"{shape}.png")
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "a", "red", "cat", "sit", "##ting"]
        (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
        import open_clip.tokenizer

        shutil.copy(open_clip.tokenizer.default_bpe(), folder)
        command = [str(environment(name)), str(ORACLES / f"oracle_{name}.py"), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return folder, torch.load(folder / "answers.pt")

    return run


def picture(folder: Path, shape: str) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1]."""
    with Image.open(folder / f"{shape}.png") as file:
        return torch.from_numpy(np.array(file)).permute(2, 0, 1)[None].float() / 255


def their_square(pixels: torch.Tensor) -> torch.Tensor:
    """The authors' own 8-bit preprocessing, in [0, 1] again."""
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return pixels * std + mean


def scored(score: Scorer, image: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Score and gradient."""
    image = image.clone().requires_grad_()
    value = score(image, [PROMPT]).sum()
    return value.item(), torch.autograd.grad(value, image)[0]


def compare(
    name: str, score: Scorer, fit: Fit, folder: Path, answers: dict[str, Any], factor: float = 1.0
) -> None:
    """Ours over `factor` against theirs: on their preprocessing, on tensors and on files; prints the differences."""
    print(f"\n{name}: difference of scores and relative difference of gradients")
    for shape, theirs in answers.items():
        image = picture(folder, shape)
        whole, gradient = (part / factor for part in scored(score, image))
        network, pixel_gradient = (part / factor for part in scored(score, their_square(theirs["pixels"])))
        differences = {"network": abs(network - theirs["pil"])}
        if "tensor" in theirs:
            differences["tensors"] = abs(whole - float(theirs["tensor"]))
            differences["gradient"] = relative(gradient, theirs["gradient"])
        else:
            std = torch.tensor(CLIP_STD).reshape(1, 3, 1, 1)
            differences["gradient"] = relative(pixel_gradient * std, theirs["pixel_gradient"])
        file = abs(whole - theirs["pil"])
        pixels = (prepare(image, 224, fit) - theirs["pixels"]).abs().mean().item()
        figures = ", ".join(f"{what} {value:.1e}" for what, value in differences.items())
        print(
            f"  {shape:6} score {theirs['pil']:9.5f}: {figures}; from the 8-bit file {file:.1e}, its pixels {pixels:.1e}"
        )
        limit = 1e-5 * max(1.0, abs(theirs["pil"]))
        assert all(value < limit for value in differences.values()), (shape, differences)
        assert file < 0.01 * abs(theirs["pil"]) and pixels < 0.006, shape


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def test_imagereward(job):
    folder, answers = job("imagereward")
    sizes: dict[str, Any] = {
        "vision": {
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 224,
            "patch_size": 16,
            "layer_norm_eps": 1e-6,
        },
        "text": {
            "vocab_size": 200,
            "bos_token_id": 2,
            "hidden_size": 768,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 12,
            "encoder_hidden_size": 64,
            "max_position_embeddings": 64,
            "is_decoder": True,
        },
    }
    paths = [folder / "ImageReward.pt", folder / "vocab.txt"]
    compare(
        "ImageReward", made("imagereward", paths, sizes), cropped_as_torchvision, folder, answers["pictures"]
    )
    assert answers["layout"] == published_shapes("imagereward")


def test_hpsv2(job):
    folder, answers = job("hpsv2")
    sizes: dict[str, Any] = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 16, "patch_size": 14},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
    }
    score = made("hpsv2", [folder / "HPS_v2_compressed.pt"], sizes)
    compare("HPSv2", score, padded, folder, answers["pictures"], factor=100)
    assert answers["layout"] == published_shapes("hpsv2")


@pytest.mark.parametrize("name", ["pickscore", "clipscore", "aesthetic"])
def test_clip(job, name):
    folder, answers = job("clip")
    tower = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 1,
        "num_hidden_layers": 2,
        "hidden_act": "gelu" if name == "pickscore" else "quick_gelu",
    }
    vision = {**tower, "image_size": 224, "patch_size": 14}
    sizes = {"projection_dim": 768, "text_config": tower, "vision_config": vision}
    paths = [folder / f"{name}.safetensors"]
    if name == "aesthetic":
        paths = [folder / "openai.safetensors", folder / "head.pth"]
    fit = cropped_as_torchvision if name == "aesthetic" else cropped
    compare(name, made(name, paths, sizes), fit, folder, answers[name])
    assert answers["layout"] == published_shapes("pickscore")


def made(name: str, paths: list[Path], sizes: dict[str, Any]) -> Scorer:
    return PUBLISHED[name].make(paths, Placement(torch.device("cpu")), architecture=sizes)  # pyright: ignore[reportCallIssue]
