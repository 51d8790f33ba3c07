"""Files with random weights in the published files' layout: names, shapes, types, and what is wrapped around them.

They are for measuring and testing where the published ones are not at hand; their scores mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlr_core.rewards import PUBLISHED
from rlr_core.rewards.clipscore import VIT_L
from rlr_core.rewards.hps import VIT_H as OPEN_CLIP_VIT_H
from rlr_core.rewards.imagereward import BLIP_L, NAMES
from rlr_core.rewards.networks import affine_head
from rlr_core.rewards.pickscore import VIT_H

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "pickscore": VIT_H,
    "hpsv2": OPEN_CLIP_VIT_H,
    "hpsv2.1": OPEN_CLIP_VIT_H,
    "aesthetic": VIT_L,
    "imagereward": BLIP_L,
    "clipscore": VIT_L,
}
"""Published sizes."""
Shapes = dict[str, torch.Size]
DRAWN = 1_000_003
"""Numbers that are drawn for a tensor; they repeat in larger ones, since drawing 10⁹ of them takes half a minute."""


def write_random(reward: str, folder: Path, architecture: dict[str, Any] | None = None) -> list[Path]:
    """Write all files of a reward into a folder of weights; returns their paths, in the order of its `files`."""
    architecture = architecture or ARCHITECTURES[reward]
    paths = [folder / file.place for file in PUBLISHED[reward].files]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[reward](paths, architecture)
    return paths


def published_shapes(reward: str) -> Shapes:
    """Name → shape of every tensor in the published file (of the aesthetic reward: in CLIP's)."""
    return SHAPES[reward](ARCHITECTURES[reward])


def _clip(paths: list[Path], architecture: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(_filled(_clip_shapes(architecture), torch.float32), paths[0], {"format": "pt"})


def _aesthetic(paths: list[Path], architecture: dict[str, Any]) -> None:
    _clip(paths, architecture)
    head = _shapes(lambda: affine_head(architecture["projection_dim"]))
    torch.save(_filled(head, torch.float32), paths[1])


def _hps(paths: list[Path], architecture: dict[str, Any]) -> None:
    torch.save({"state_dict": _filled(_open_clip_shapes(architecture), torch.float16)}, paths[0])


def _imagereward(paths: list[Path], architecture: dict[str, Any]) -> None:
    torch.save(_filled(_imagereward_shapes(architecture), torch.float32), paths[0])
    words = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    paths[1].write_text("\n".join(words) + "\n", encoding="utf-8")


def _clip_shapes(architecture: dict[str, Any]) -> Shapes:
    """Of a CLIP file that transformers wrote when it still stored the positions' numbers."""
    from transformers import CLIPConfig, CLIPModel

    shapes = _shapes(lambda: CLIPModel(CLIPConfig(**architecture)))
    for name in ("text_model.embeddings.position_", "vision_model.embeddings.position_"):
        shapes[f"{name}ids"] = torch.Size((1, shapes[f"{name}embedding.weight"][0]))
    return shapes


def _open_clip_shapes(architecture: dict[str, Any]) -> Shapes:
    import open_clip

    return _shapes(lambda: open_clip.CLIP(**architecture))


def _imagereward_shapes(architecture: dict[str, Any]) -> Shapes:
    """Of ImageReward.pt, which also has two projections that the score does not use."""
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    vision = _shapes(lambda: BlipVisionModel(BlipVisionConfig(**architecture["vision"])))
    config = BlipTextConfig(**architecture["text"])
    text = _shapes(lambda: BlipTextModel(config, add_pooling_layer=False))
    wide, width = architecture["vision"]["hidden_size"], architecture["text"]["hidden_size"]
    shapes = {f"blip.visual_encoder.{_published_name(name)}": shape for name, shape in vision.items()}
    shapes["blip.text_encoder.embeddings.position_ids"] = torch.Size((1, config.max_position_embeddings))
    shapes |= {f"blip.text_encoder.{name}": shape for name, shape in text.items()}
    for name, size in (("vision_proj", wide), ("text_proj", width)):
        shapes |= {f"blip.{name}.weight": torch.Size((256, size)), f"blip.{name}.bias": torch.Size((256,))}
    return shapes | {f"mlp.{name}": shape for name, shape in _shapes(lambda: affine_head(width)).items()}


def _published_name(name: str) -> str:
    if name.startswith("post_layernorm."):
        return name.removeprefix("post_layer")
    for theirs, ours in NAMES.items():
        name = name.replace(ours, theirs)
    return name


WRITERS: dict[str, Callable[[list[Path], dict[str, Any]], None]] = {
    "pickscore": _clip,
    "hpsv2": _hps,
    "hpsv2.1": _hps,
    "aesthetic": _aesthetic,
    "imagereward": _imagereward,
    "clipscore": _clip,
}
SHAPES: dict[str, Callable[[dict[str, Any]], Shapes]] = {
    "pickscore": _clip_shapes,
    "hpsv2": _open_clip_shapes,
    "hpsv2.1": _open_clip_shapes,
    "aesthetic": _clip_shapes,
    "imagereward": _imagereward_shapes,
    "clipscore": _clip_shapes,
}


def _shapes(make: Callable[[], nn.Module]) -> Shapes:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in make().state_dict().items()}


def _filled(shapes: Shapes, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights of a size that lets signals through, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return {name: values(name, shape, generator, dtype) for name, shape in shapes.items()}


def values(name: str, shape: torch.Size, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """A tensor's, by its name: norms near 1, biases near 0, and matrices that keep the size of what goes through."""
    if name.endswith("position_ids"):
        return torch.arange(shape[-1]).expand(shape).contiguous()
    if name.endswith("logit_scale"):
        return torch.tensor(math.log(100.0), dtype=dtype)
    count = math.prod(shape)
    drawn = torch.randn(min(count, DRAWN), generator=generator)
    gain = 1.0 if name.endswith(".weight") else 0.0
    drawn = 0.1 * drawn + gain if len(shape) == 1 else drawn / math.sqrt(shape[-1])
    repeated = drawn.to(dtype).repeat(math.ceil(count / DRAWN))[:count]
    return repeated.reshape(shape).clone()  # else torch.save would store what was cut off, too
