"""A small network that learns what a reward says of pictures, while it is said: a surrogate that has a gradient.

It is shown the pictures that training paints anyway, and remembers the newest. What it is worth is measured on pictures before
it learns from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlr_core.chain.noise import derive_seed

WIDTHS = 16, 32, 48, 64
"""Channels of the convolutions, the first at the picture's size, each other one at half of the one before."""
PLACES, HIDDEN = 64, 64
"""Numbers of a text's vector, at one of which each word counts, and of the layer that texts and pictures meet in."""
STEPS, RATE = 24, 2e-3
"""Adam's steps after each batch, and their rate."""
MINIBATCH, PIXELS = 32, 2**21
"""Pictures of a step: at most so many, and of so many pixels, but one."""
REMEMBERED, BYTES = 512, 2**26
"""The newest pictures are remembered: at most so many, and of so many bytes, but one."""
JUDGED, FEWEST = 48, 8
"""The correlation is that of the newest preferences; with fewer than so many there is none."""


class Network(nn.Module):
    """Pictures (n, 3, H, W) in [0, 1] and their texts' vectors (n, PLACES) → (n,).

    Means and deviations of convolutions at four scales: what a picture has, and not where. The text says what of it counts.
    """

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        self.scales = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=1 if k == 0 else 2, padding=1)
            for k, (i, o) in enumerate(zip(inputs, WIDTHS, strict=True))
        )
        self.norm = nn.LayerNorm(2 * sum(WIDTHS))
        self.seen = nn.Linear(2 * sum(WIDTHS), HIDDEN)
        self.asked = nn.Linear(PLACES, 2 * HIDDEN, bias=False)
        self.head = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(self.asked.weight)

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        return self.judge(self.look(images), texts)

    def look(self, images: Tensor) -> Tensor:
        """What is seen of pictures, (n, HIDDEN)."""
        x, found = 4 * (images - 0.5), []
        for scale in self.scales:
            x = functional.silu(scale(x))
            mean = x.mean((2, 3))
            spread = (x - mean[:, :, None, None]).square().mean((2, 3))
            found += [mean, (spread + 1e-6).sqrt()]
        return self.seen(self.norm(torch.cat(found, 1)))

    def judge(self, seen: Tensor, texts: Tensor) -> Tensor:
        """The scores (n,) of what is seen."""
        gain, shift = self.asked(texts).chunk(2, -1)
        return self.head(functional.silu(seen * (1 + gain) + shift)).squeeze(-1)


def bag_of_words(prompts: Sequence[str]) -> Tensor:
    """(n, PLACES) how many words of each place a prompt has."""
    bags = torch.zeros(len(prompts), PLACES)
    for bag, prompt in zip(bags, prompts, strict=True):
        for word in prompt.lower().split():
            bag[derive_seed(word) % PLACES] += 1
    return bags


@dataclass
class Surrogate:
    """What it has learned, remembers and is worth.

    Attributes:
        images: (3, H, W) of 8 bits, on the CPU; `texts` and `scores` are theirs.
        judged: pairs of by how much it preferred a picture, before it learned from it, and the reward did.
    """

    network: Network
    optimizer: torch.optim.Adam
    images: list[Tensor] = field(default_factory=list)
    texts: list[Tensor] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    judged: list[tuple[float, float]] = field(default_factory=list)

    @classmethod
    def new(cls, device: torch.device) -> Surrogate:
        """One that knows nothing; always the same."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed("surrogate"))  # and no card's
            network = Network()
        network.to(device)
        return cls(network, torch.optim.Adam(network.parameters(), lr=RATE))

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Its guess (n,) of the scores of images (n, 3, H, W), in deviations of those that it remembers."""
        return self.network(images.float(), bag_of_words(prompts).to(images.device))

    @property
    def worth(self) -> float:
        """Correlation of its preferences with the reward's, less its standard error; 0 for none."""
        if len(self.judged) < FEWEST:
            return 0.0
        pairs = torch.tensor(self.judged, dtype=torch.float64).T
        if not pairs.std(1).all():
            return 0.0
        r = float(torch.corrcoef(pairs)[0, 1])
        return max(r - (1 - r**2) / math.sqrt(len(self.judged) - 1), 0.0)

    @torch.no_grad()
    def _judge(self, images: Tensor, prompts: Sequence[str], scores: Tensor) -> list[tuple[float, float]]:
        """By how much it prefers each picture to the others of the batch, with the same text, and how right it is.

        That a text gets high scores, whatever is painted, is easily learned, and teaches nothing: of the reward's scores, too,
        it is what is above the critic's mean for the text that counts.
        """
        seen, texts = self.network.look(images.float()), bag_of_words(prompts).to(images.device)
        everyone = self.network.judge(seen[None], texts[:, None])  # (texts, pictures)
        usual, mean, spread = everyone.mean(1), *self._scale()
        preferred, better = (everyone.diagonal() - usual).cpu(), (scores - mean) / spread - usual.cpu()
        return list(zip(preferred.tolist(), better.tolist(), strict=True))

    def _scale(self) -> tuple[float, float]:
        """Mean and deviation of the scores that it remembers."""
        scores = torch.tensor(self.scores)
        return float(scores.mean()), float(scores.std(correction=0)) + 1e-6

    def learn(
        self, images: Tensor, prompts: Sequence[str], scores: Tensor, generator: torch.Generator
    ) -> None:
        """Be judged by the scores (n,) of images (n, 3, H, W), and then learn from them; what is not finite teaches nothing."""
        scores = scores.detach().to("cpu", torch.float32)
        rows = scores.isfinite().nonzero().flatten().tolist()
        told = scores.tolist()
        if self.images:
            judged = self._judge(images, prompts, scores)
            self.judged = [*self.judged, *(judged[j] for j in rows)][-JUDGED:]
        small = (255 * images.detach()).round().clamp(0, 255).to(torch.uint8).to("cpu")
        bags = bag_of_words(prompts)
        self.images = [*self.images, *(small[j].clone() for j in rows)]
        self.texts = [*self.texts, *(bags[j] for j in rows)]
        self.scores = [*self.scores, *(told[j] for j in rows)]
        if self.images:
            self._forget()
            self._fit(generator, images.device)

    def _forget(self) -> None:
        """The oldest pictures."""
        kept, size = 0, 0
        for image in reversed(self.images[-REMEMBERED:]):
            size += image.numel()
            if size > BYTES and kept:
                break
            kept += 1
        self.images = self.images[-kept:]
        self.texts, self.scores = self.texts[-kept:], self.scores[-kept:]

    @torch.enable_grad()
    def _fit(self, generator: torch.Generator, device: torch.device) -> None:
        """Adam's steps on pictures that are drawn; those of one step are of the size of the first that is."""
        mean, spread = self._scale()
        wanted = (torch.tensor(self.scores) - mean) / spread
        for _ in range(STEPS):
            drawn = torch.randint(len(self.images), (MINIBATCH,), generator=generator).tolist()
            shape = self.images[drawn[0]].shape
            alike = [j for j in drawn if self.images[j].shape == shape]
            alike = alike[: max(PIXELS // shape[1:].numel(), 1)]
            images = torch.stack([self.images[j] for j in alike]).to(device).float() / 255
            texts = torch.stack([self.texts[j] for j in alike]).to(device)
            loss = functional.mse_loss(self.network(images, texts), wanted[alike].to(device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """All of it; learning on does not change it."""
        return {
            "network": deepcopy(self.network.state_dict()),
            "optimizer": deepcopy(self.optimizer.state_dict()),
            "images": list(self.images),
            "texts": list(self.texts),
            "scores": list(self.scores),
            "judged": list(self.judged),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(deepcopy(state["optimizer"]))
        self.images, self.texts = list(state["images"]), list(state["texts"])
        self.scores, self.judged = list(state["scores"]), list(state["judged"])
