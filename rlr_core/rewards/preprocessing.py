"""From pictures in [0, 1] to what an image tower takes: bicubic, antialiased, in float32 (or float64), differentiable.

The published models were trained on 8-bit pictures resized by Pillow, which rounds its result to 1/255 and cuts it to [0, 1]. A
function that is rounded has no gradient; everything else is done alike. `docs/rewards.md` has the difference that remains.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Fit = Callable[[Tensor, int], Tensor]
"""(B, 3, H, W) and the side of a square → (B, 3, side, side)."""


def prepare(images: Tensor, side: int, fit: Fit) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] → (B, 3, side, side), normalised as CLIP wants it."""
    squares = fit(images, side)
    mean, std = (squares.new_tensor(values).reshape(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (squares - mean) / std


def cropped(images: Tensor, side: int) -> Tensor:
    """Shortest edge to `side`, then the centre; an odd margin is halved as transformers' CLIP processor does, down."""
    return _cropped(images, side, lambda margin: margin // 2)


def cropped_as_torchvision(images: Tensor, side: int) -> Tensor:
    """The same as torchvision's CenterCrop does it (OpenAI's CLIP, ImageReward): halves go to the even number."""
    return _cropped(images, side, lambda margin: round(margin / 2))


def _cropped(images: Tensor, side: int, half: Callable[[int], int]) -> Tensor:
    short = min(images.shape[2:])
    height, width = (side * edge // short for edge in images.shape[2:])
    top, left = half(height - side), half(width - side)
    return _resized(images, height, width).clamp(0, 1)[..., top : top + side, left : left + side]


def padded(images: Tensor, side: int) -> Tensor:
    """Longest edge to `side`, black around it: HPSv2, whose authors resize in floating point and do not cut to [0, 1]."""
    scale = side / max(images.shape[2:])
    height, width = (max(1, round(edge * scale)) for edge in images.shape[2:])
    top, left = (side - height) // 2, (side - width) // 2
    box = (left, side - width - left, top, side - height - top)
    return functional.pad(_resized(images, height, width), box)


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[2:] == (height, width):
        return images
    return functional.interpolate(images, (height, width), mode="bicubic", antialias=True)
