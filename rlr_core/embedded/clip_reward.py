"""The shipped reward: an `open_clip.CLIP` for 64-pixel pictures of the drawn world, in open_clip's folder format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
    "text_cfg": {
        "context_length": 16,
        "hf_tokenizer_name": "beside this file",
        "width": 96,
        "heads": 4,
        "layers": 2,
        "mlp_ratio": 2.0,
    },
}
"""What `open_clip.CLIP` is built from; the vocabulary's size is that of the tokenizer."""
PREPROCESSING: dict[str, Any] = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}


def load_clip(folder: Path) -> tuple[Any, Callable[[list[str]], Tensor]]:
    """The model, in evaluation mode, and texts → (N, 16) tokens. Raises `OSError` for files that cannot be read."""
    import open_clip

    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (folder / name).open("rb").close()  # open_clip would go on without weights
    model = open_clip.create_model(f"local-dir:{folder}")
    return model.eval(), open_clip.get_tokenizer(f"local-dir:{folder}")
