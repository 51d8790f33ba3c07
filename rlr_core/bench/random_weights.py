"""Files with random weights in the published files' layout: names, shapes, types, and what is wrapped around them.

They are for measuring and testing where the published ones are not at hand; their scores mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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


def write_random(reward: str, folder: Path, architecture: dict[str, Any] | None = None) -> list[Path]:
    """Write all files of a reward into a folder of weights; returns their paths, in the order of its `files`."""
    architecture = architecture or ARCHITECTURES[reward]
    paths = [folder / file.place for file in PUBLISHED[reward].files]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[reward](paths, architecture)
    return paths


def _clip(paths: list[Path], architecture: dict[str, Any]) -> None:
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel

    tensors = dict(_filled(_shapes(lambda: CLIPModel(CLIPConfig(**architecture))), torch.float32))
    for tower in ("text", "vision"):
        name = f"{tower}_model.embeddings.position_"
        tensors[f"{name}ids"] = torch.arange(len(tensors[f"{name}embedding.weight"]))[None]
    save_file(tensors, paths[0], {"format": "pt"})


def _aesthetic(paths: list[Path], architecture: dict[str, Any]) -> None:
    _clip(paths, architecture)
    head = _shapes(lambda: affine_head(architecture["projection_dim"]))
    torch.save(dict(_filled(head, torch.float32)), paths[1])


def _hps(paths: list[Path], architecture: dict[str, Any]) -> None:
    import open_clip

    tensors = dict(_filled(_shapes(lambda: open_clip.CLIP(**architecture)), torch.float16))
    torch.save({"state_dict": tensors}, paths[0])


def _imagereward(paths: list[Path], architecture: dict[str, Any]) -> None:
    torch.save(dict(_filled(imagereward_shapes(architecture), torch.float32)), paths[0])
    words = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    paths[1].write_text("\n".join(words) + "\n", encoding="utf-8")


def imagereward_shapes(architecture: dict[str, Any]) -> Shapes:
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


def _shapes(make: Callable[[], nn.Module]) -> Shapes:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in make().state_dict().items()}


def _filled(shapes: Shapes, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Weights of a size that lets signals through; norms' gains around 1."""
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        if name.endswith("position_ids"):
            yield name, torch.arange(shape[-1]).expand(shape).contiguous()
            continue
        values = torch.randn(shape, generator=generator)
        if name.endswith("logit_scale"):
            values = torch.tensor(math.log(100.0))
        elif len(shape) == 1:
            values = values.mul_(0.1).add_(1.0 if name.endswith(".weight") else 0.0)
        else:
            values = values.div_(math.sqrt(shape[-1]))
        yield name, values.to(dtype)
