"""Rewards and held-out scorers of drawn worlds: classifiers of each attribute, of three architectures that share nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlr_core.bench.beds.drawn import SIZE, World
from rlr_core.embedded.train_checkpoint import optimise, progress

BATCH = 32
DULL = 0.02
"""Label smoothing, so that the gradient of a picture that is right already does not vanish."""


def convolutional() -> nn.Module:
    """Three strided stages: (B, 3, 32, 32) → (B, 1024)."""
    widths = (3, 24, 48, 64)
    stages = [
        nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.SiLU(), nn.Conv2d(b, b, 3, 1, 1), nn.SiLU())
        for a, b in pairwise(widths)
    ]  # fmt: skip
    return nn.Sequential(*stages, nn.Flatten())


class Patches(nn.Module):
    """(B, 3, 32, 32) → patches of 4 pixels, (B, 64, 48)."""

    def forward(self, images: Tensor) -> Tensor:
        """Row by row."""
        return F.pixel_unshuffle(images, 4).flatten(2).transpose(1, 2)


class Transformer(nn.Module):
    """Two layers of attention over patches: (B, 3, 32, 32) → (B, 64)."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.embed = nn.Sequential(Patches(), nn.Linear(48, width))
        self.place = nn.Parameter(0.02 * torch.randn(1, 64, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )

    def forward(self, images: Tensor) -> Tensor:
        """The mean over patches."""
        tokens = self.embed(images) + self.place
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens.mean(1)


class Mixer(nn.Module):
    """Two blocks that mix places, then channels (arXiv 2105.01601): (B, 3, 32, 32) → (B, 64)."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.embed = nn.Sequential(Patches(), nn.Linear(48, width))
        self.places = nn.ModuleList(_perceptron(64) for _ in range(2))
        self.channels = nn.ModuleList(_perceptron(width) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        """The mean over patches."""
        tokens = self.embed(images)
        for places, channels in zip(self.places, self.channels, strict=True):
            tokens = tokens + places(tokens.transpose(1, 2)).transpose(1, 2)
            tokens = tokens + channels(tokens)
        return tokens.mean(1)


def _perceptron(width: int) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
    )


BODIES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "convolutional": (convolutional, 1024),
    "transformer": (Transformer, 64),
    "mixer": (Mixer, 64),
}
"""Architecture → what makes its body, and the number of features that this gives."""


class Judge(nn.Module):
    """Pictures → the probability of each word, for each attribute of a world."""

    def __init__(self, body: str, world: World):
        super().__init__()
        make, features = BODIES[body]
        self.world, self.body = world, make()
        self.heads = nn.ModuleDict(
            {name: nn.Linear(features, len(known)) for name, known in world.choices.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, 32, 32) in [0, 1] → attribute: logits (B, number of its words)."""
        features = self.body(images * 2 - 1)
        return {name: head(features) for name, head in self.heads.items()}

    def likelihoods(self, images: Tensor, prompts: Sequence[str]) -> list[Tensor]:
        """For each picture the log-probability (A,) of each word that its prompt asks for. Raises `PromptError`."""
        if images.shape[-1] != SIZE:
            images = F.interpolate(images, (SIZE, SIZE), mode="area")
        logits = {name: values.log_softmax(1) for name, values in self(images).items()}
        choices = self.world.choices
        return [
            torch.stack([logits[name][row, choices[name].index(word)] for name, word in asked.items()])
            for row, asked in enumerate(map(self.world.asked, prompts))
        ]

    def everything(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The probability (B,) that a picture shows all that its prompt asks for, attributes taken as independent."""
        return torch.stack([each.sum() for each in self.likelihoods(images, prompts)]).exp()

    def share(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The mean probability (B,) of the words."""
        return torch.stack([each.exp().mean() for each in self.likelihoods(images, prompts)])

    def evidence(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The mean log-probability (B,) of the words."""
        return torch.stack([each.mean() for each in self.likelihoods(images, prompts)])


def train_judge(body: str, world: World, seed: int, steps: int, out: Path) -> None:
    """Cross-entropy of each attribute on drawn pictures that are spoiled; saved in half precision."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    judge = Judge(body, world)
    optimizer, schedule = optimise(judge, 2e-3, steps)
    scenes = [world.random_scene(rng) for _ in range(BATCH * min(steps, 200))]
    pictures = torch.from_numpy(np.stack([world.draw(scene, rng) for scene in scenes])).float()
    labels = {
        name: torch.tensor([known.index(scene[name]) for scene in scenes])
        for name, known in world.choices.items()
    }
    for _, report in progress(f"{body} judge", steps):
        chosen = torch.randint(len(pictures), (BATCH,))
        logits = judge(spoil(pictures[chosen]))
        losses = [F.cross_entropy(logits[n], labels[n][chosen], label_smoothing=DULL) for n in world.choices]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        report(loss.detach())
    save_half(judge, out)


def spoil(pictures: Tensor) -> Tensor:
    """The faults of painted pictures, which drawn ones have not: bent, shifted, blurred, off in its colours, and noisy."""
    return noisy(tinted(blurred(bent(pictures)))).clamp(0, 1)


def bent(pictures: Tensor, most: float = 2.0, shift: float = 1.5) -> Tensor:
    """(B, 3, H, W), shifted by up to `shift` pixels, and bent by up to about `most`: in waves, as ragged outlines are, or in
    blocks, as patterns are that do not go together."""
    count, _, height, width = pictures.shape
    size = (height, width)
    waves = F.interpolate(torch.randn(count, 2, 9, 9), size, mode="bicubic")
    blocks = F.interpolate(torch.randn(count, 2, 5, 5), size, mode="nearest")
    strength = most * torch.rand(count, 1, 1, 1) ** 2
    moved = shift * (2 * torch.rand(count, 2, 1, 1) - 1)
    moved = moved + strength * torch.where(torch.rand(count, 1, 1, 1) < 0.5, waves, blocks)
    straight = F.affine_grid(torch.eye(2, 3).expand(count, 2, 3), [count, 3, *size], align_corners=False)
    where = straight + (moved * 2 / torch.tensor([width, height])[:, None, None]).permute(0, 2, 3, 1)
    return F.grid_sample(pictures, where, padding_mode="reflection", align_corners=False)


def blurred(pictures: Tensor) -> Tensor:
    """Each by its own share of a blur of 3 pixels, twice."""
    for _ in range(2):
        padded = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
        share = torch.rand(len(pictures), 1, 1, 1)
        pictures = pictures.lerp(F.avg_pool2d(padded, 3, stride=1), share)
    return pictures


def tinted(pictures: Tensor) -> Tensor:
    """Each with its own light and contrast, and a little of it for each colour."""
    count = len(pictures)
    light = 1 + 0.2 * (torch.rand(count, 1, 1, 1) - 0.5) + 0.2 * (torch.rand(count, 3, 1, 1) - 0.5)
    mean = pictures.mean((1, 2, 3), keepdim=True)
    return mean + (pictures * light - mean) * (0.75 + 0.35 * torch.rand(count, 1, 1, 1))


def noisy(pictures: Tensor) -> Tensor:
    """Fine noise and blotches of four pixels, each of its own amount."""
    count, _, height, width = pictures.shape
    fine, coarse = torch.rand(2, count, 1, 1, 1)
    blotches = F.interpolate(torch.randn(count, 3, height // 4, width // 4), (height, width), mode="bilinear")
    return pictures + 0.12 * fine * torch.randn_like(pictures) + 0.12 * coarse * blotches


def save_half(network: nn.Module, out: Path) -> None:
    """Half-precision safetensors."""
    from safetensors.torch import save_file

    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in network.state_dict().items()}, out)


def load_judge(body: str, world: World, file: Path, device: torch.device) -> Any:
    """In evaluation mode, frozen, float32. Raises `OSError`."""
    from safetensors.torch import load_file

    with torch.random.fork_rng(devices=[]):  # what networks draw for their first weights leaves no trace
        judge = Judge(body, world)
    judge.load_state_dict(load_file(file))
    return judge.eval().requires_grad_(False).to(device)
