"""Human Preference Score v2 (arXiv 2306.09341) and v2.1: CLIP ViT-H/14 in open_clip's layout, tuned on rankings by people.

The whole picture is scored, with black bars if it is not square.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from rlr_core.rewards.cosine import Cosine
from rlr_core.rewards.networks import Placement, frozen
from rlr_core.rewards.preprocessing import padded
from rlr_core.rewards.published import Published
from rlr_core.rewards.published_files import WeightsFile, read_tensors
from rlr_core.rewards.tokens import open_clip_tokens

VIT_H: dict[str, Any] = {
    "embed_dim": 1024,
    "vision_cfg": {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24},
}
"""What open_clip.CLIP is built from."""


def hps(
    paths: Sequence[Path], placement: Placement, name: str = "hpsv2", architecture: dict[str, Any] = VIT_H
) -> Cosine:
    """100 · cos(picture, prompt), as the authors' tables have it; their `score` returns the cosine."""
    import open_clip

    (path,) = paths
    clip = frozen(lambda: open_clip.CLIP(**architecture), read_tensors(path), path, placement)
    clip.visual.set_grad_checkpointing(placement.rerun)

    def text_tower(tokens: Tensor) -> Tensor:
        return clip.encode_text(functional.pad(tokens, (0, clip.context_length - tokens.shape[1])))

    side = architecture["vision_cfg"]["image_size"]
    return Cosine(placement, open_clip_tokens(name), side, padded, clip.encode_image, text_tower, 100.0)


V2 = "md5:fd9180de357abf01fdb4eaad64631db4"
V21 = "md5:4067542e34ba2553a738c5ac6c1d75c0"


def _published(name: str, file: str, digest: str, other: str, other_name: str) -> Published:
    alike = {other: f"the file of '{other_name}'"}
    weights = WeightsFile("xswu/HPSv2", file, 1_972_000_000, "Apache-2.0", digest, alike)
    measures = "which picture people rank higher for a prompt"
    return Published(name, measures, "about 20 to 35", (weights,), functools.partial(hps, name=name))


HPSV2 = _published("hpsv2", "HPS_v2_compressed.pt", V2, V21, "hpsv2.1")
HPSV21 = _published("hpsv2.1", "HPS_v2.1_compressed.pt", V21, V2, "hpsv2")
