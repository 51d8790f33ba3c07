"""Rewards that have no gradient: how well JPEG compresses a picture, and how sharp it is.

Each looks at the picture as it is saved, in 8 bits. They train through the half- and zeroth-order parts alone.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rlr_core.rewards.reward import FunctionReward

JPEG_QUALITY = 95


def jpeg_compressibility(device: torch.device) -> FunctionReward:
    """ "jpeg-compressibility": minus the kilobytes of the picture as a JPEG file (arXiv 2305.13301, section 5.1)."""
    return FunctionReward(
        "jpeg-compressibility", False, lambda images, prompts: [-size for size in _kilobytes(images)]
    )


def jpeg_incompressibility(device: torch.device) -> FunctionReward:
    """ "jpeg-incompressibility": the kilobytes of the picture as a JPEG file (arXiv 2305.13301, section 5.1)."""
    return FunctionReward("jpeg-incompressibility", False, lambda images, prompts: _kilobytes(images))


def sharpness(device: torch.device) -> FunctionReward:
    """ "sharpness": the variance of the Laplacian of the grey levels (0 … 255), the common measure of focus."""
    return FunctionReward(
        "sharpness", False, lambda images, prompts: [_laplacian(p).var() for p in _pictures(images)]
    )


def _kilobytes(images: Tensor) -> list[float]:
    """1000 bytes each, of images (B, 3, H, W) at quality 95."""
    return [_jpeg_bytes(picture) / 1000 for picture in _pictures(images)]


def _jpeg_bytes(picture: Image.Image) -> int:
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=JPEG_QUALITY)
    return file.tell()


def _laplacian(picture: Image.Image) -> NDArray[np.float64]:
    """The four neighbours less four times the pixel, (H-2, W-2)."""
    grey = np.asarray(picture.convert("L"), dtype=np.float64)
    vertical = grey[:-2, 1:-1] + grey[2:, 1:-1]
    return vertical + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]


def _pictures(images: Tensor) -> list[Image.Image]:
    """Images (B, 3, H, W) in [0, 1] with 8 bits a channel; a NaN is black."""
    pixels = (images.nan_to_num().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return [Image.fromarray(array) for array in pixels.numpy()]
