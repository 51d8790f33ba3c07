"""Pictures of one size, which are a tensor, or of several, which are a list; and what is looked at of videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Pictures = Tensor | list[Tensor]
"""(N, 3, H, W), range [0, 1]; where their sizes differ, a list of N tensors (3, H, W). Of videos with F frames after the 3."""


def assembled(pictures: Sequence[Tensor]) -> Pictures:
    """Pictures (3, …) one by one, as one tensor if they are of one size."""
    alike = len({picture.shape for picture in pictures}) == 1
    return torch.stack(list(pictures)) if alike else list(pictures)


def alike(pictures: Pictures, most: int) -> Iterator[tuple[list[int], Tensor]]:
    """At most `most` pictures of one size at a time: their numbers, and themselves (n, 3, …)."""
    by_shape: dict[torch.Size, list[int]] = {}
    for number in range(len(pictures)):
        by_shape.setdefault(pictures[number].shape, []).append(number)
    for numbers in by_shape.values():
        for first in range(0, len(numbers), most):
            chosen = numbers[first : first + most]
            yield chosen, torch.stack([pictures[number] for number in chosen])


def stills(pictures: Pictures) -> Pictures:
    """For looking at: pictures as they are; of videos the middle frame, (3, H, W)."""
    if all(picture.dim() == 3 for picture in pictures):
        return pictures
    return assembled([p[:, p.shape[1] // 2] if p.dim() == 4 else p for p in pictures])
