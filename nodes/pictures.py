"""Pictures between files and ComfyUI's IMAGE, (N, H, W, 3), range [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def as_image(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size."""
    return torch.stack([torch.from_numpy(np.array(each.convert("RGB"))) for each in pictures]) / 255


def as_batch(image: Tensor) -> Tensor:
    """As rewards take them, (N, 3, H, W); a fourth channel, of transparency, is left out."""
    return image[..., :3].movedim(-1, 1).float()
