"""What pictures are like, whatever their prompts: cheap numbers in which collapse and reward hacking show.

All are of images (N, 3, H, W) in [0, 1], one number for each picture, so that pictures of the same prompt and seed can be
compared pair by pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from rlr_core.rewards.pictures import Pictures

SIDE = 32
"""Pictures are compared with each other at this many pixels a side."""
LEVELS = 64
"""Grey levels that the entropy tells apart."""


def statistics(images: Pictures) -> dict[str, Tensor]:
    """Each statistic by name, (N,) on the CPU. What is not defined, as the diversity of one picture, is NaN."""
    if isinstance(images, Tensor):
        pictures = images.detach().float().cpu()
        return {name: measure(pictures) for name, measure in STATISTICS.items()}
    alone = [statistics(image[None]) for image in images]
    found = {name: torch.cat([each[name] for each in alone]) for name in STATISTICS}
    reduced = [small(image[None].detach().float().cpu()) for image in images]
    return {**found, "diversity": diversity(torch.cat(reduced))}


def saturation(images: Tensor) -> Tensor:
    """(max − min) / max of the three channels (the S of HSV), mean over the pixels, in [0, 1]."""
    top, bottom = images.amax(1), images.amin(1)
    return ((top - bottom) / top.clamp(min=1e-6)).mean((1, 2))


def edge_density(images: Tensor) -> Tensor:
    """Mean absolute difference of the grey levels of neighbouring pixels, across and down, in [0, 1]."""
    grey = images.mean(1)
    across, down = grey.diff(dim=2).abs().mean((1, 2)), grey.diff(dim=1).abs().mean((1, 2))
    return (across + down) / 2


def entropy(images: Tensor) -> Tensor:
    """Of the histogram of the grey levels, in bits: 0 for a plain picture, 6 for all levels alike."""
    levels = (images.mean(1).nan_to_num() * LEVELS).long().clamp(0, LEVELS - 1).flatten(1)
    counts = torch.stack([picture.bincount(minlength=LEVELS) for picture in levels])
    shares = counts / levels.shape[1]
    return -torch.special.xlogy(shares, shares).sum(1) / math.log(2)


def diversity(images: Tensor) -> Tensor:
    """Mean distance of two pictures (root mean square at 32 × 32 pixels), as jackknife pseudo-values.

    Their mean is the mean over all pairs. Every picture is in many pairs, so that a picture's mean distance to the others
    has too small a spread; pseudo-values have the spread that gives that mean its standard error (Tukey, 1958).
    """
    count = len(images)
    if count < 3:
        return torch.full((count,), math.nan)
    flat = small(images).flatten(1)
    distances = torch.cdist(flat, flat) / math.sqrt(flat.shape[1])
    mine = distances.sum(1) / (count - 1)
    return (2 * (count - 1) * mine - count * mine.mean()) / (count - 2)


def small(images: Tensor) -> Tensor:
    """Images of any size (N, 3, H, W) → (N, 3, 32, 32); what has that size already stays."""
    return functional.interpolate(images, (SIDE, SIDE), mode="area")


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "saturation": saturation,
    "edge density": edge_density,
    "entropy": entropy,
    "diversity": diversity,
}
