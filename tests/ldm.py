"""Writes checkpoints in the original (LDM) layout, from diffusers' networks, by a mapping of its own.

It is written from the original layout's module tree, and shares nothing with what loads such files.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from rlr_core.families import FAMILIES
from rlr_core.families import StableDiffusionFamily as Family

UNET, VAE, EMA = "model.diffusion_model.", "first_stage_model.", "model_ema.diffusion_model"
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
XL_CLIP, XL_OPEN_CLIP = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."

TIMES = {"time_embedding.linear_": "time_embed.", "add_embedding.linear_": "label_emb.0."}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def unet_name(name: str, config: Mapping[str, Any]) -> str:
    """diffusers' name of a UNet's tensor → the original one, without prefix."""
    for theirs, original in TIMES.items():
        if name.startswith(theirs):
            number, kind = name[len(theirs) :].split(".")
            return f"{original}{2 * (int(number) - 1)}.{kind}"
    for theirs, original in {
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }.items():
        if name.startswith(theirs + "."):
            return name.replace(theirs, original)
    side, *path = name.split(".")
    per_block = config["layers_per_block"] + 1
    if side == "mid_block":
        kind, index, *rest = path
        place = {"resnets0": 0, "attentions0": 1, "resnets1": 2}[kind + index]
        return f"middle_block.{place}.{inner(kind, rest)}"
    block, kind, index, *rest = path
    if side == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(int(block) + 1) * per_block}.0.op.{rest[-1]}"
        place = 1 + int(block) * per_block + int(index)
        return f"input_blocks.{place}.{int(kind == 'attentions')}.{inner(kind, rest)}"
    if kind == "upsamplers":
        attends = "CrossAttn" in config["up_block_types"][int(block)]
        return f"output_blocks.{(int(block) + 1) * per_block - 1}.{1 + attends}.conv.{rest[-1]}"
    place = int(block) * per_block + int(index)
    return f"output_blocks.{place}.{int(kind == 'attentions')}.{inner(kind, rest)}"


def inner(kind: str, path: list[str]) -> str:
    """Inside a residual block the layers have other names; inside attention the same."""
    return ".".join([RESNET[path[0]], *path[1:]] if kind == "resnets" else path)


def vae_name(name: str, blocks: int) -> str:
    name = re.sub(r"encoder\.down_blocks\.(\d)\.resnets", r"encoder.down.\1.block", name)
    name = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{blocks - 1 - int(found[1])}", name)
    name = name.replace(".resnets.", ".block.").replace("upsamplers.0", "upsample")
    name = re.sub(r"mid_block\.block\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
    name = re.sub(r"to_(q|k|v)\.", r"\1.", name).replace("to_out.0", "proj_out")
    return name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def unet_tensors(unet: Any) -> Iterator[tuple[str, Tensor]]:
    for name, value in unet.state_dict().items():
        yield UNET + unet_name(name, unet.config), value


def vae_tensors(vae: Any) -> Iterator[tuple[str, Tensor]]:
    """The attention's layers are 1 × 1 convolutions in the original."""
    for name, value in vae.state_dict().items():
        linear = ".attentions." in name and value.dim() == 2
        name = vae_name(name, len(vae.config.block_out_channels))
        yield VAE + name, value[:, :, None, None] if linear else value


def clip_tensors(model: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in model.state_dict().items():
        yield prefix + name.removeprefix("text_model."), value
    yield prefix + "embeddings.position_ids", torch.arange(77)[None]


def open_clip_tensors(model: Any, prefix: str, *, another_layer: bool) -> Iterator[tuple[str, Tensor]]:
    """`another_layer`: 2.x's files hold the last layer, too, which is never used."""
    state = {name.removeprefix("text_model."): value for name, value in model.state_dict().items()}
    yield prefix + "positional_embedding", state["embeddings.position_embedding.weight"]
    yield prefix + "token_embedding.weight", state["embeddings.token_embedding.weight"]
    width = state["final_layer_norm.weight"].shape[0]
    projection = state.get(
        "text_projection.weight", torch.zeros(width, width).to(state["final_layer_norm.weight"])
    )
    yield prefix + "text_projection", projection.T
    yield prefix + "logit_scale", torch.tensor(4.6)
    for kind in ("weight", "bias"):
        yield f"{prefix}ln_final.{kind}", state[f"final_layer_norm.{kind}"]
    layers = model.config.num_hidden_layers
    for layer in range(layers):
        for name, value in open_clip_layer(state, f"encoder.layers.{layer}."):
            yield f"{prefix}transformer.resblocks.{layer}.{name}", value
            if another_layer and layer == layers - 1:
                yield f"{prefix}transformer.resblocks.{layers}.{name}", value + 1


def open_clip_layer(state: Mapping[str, Tensor], start: str) -> Iterator[tuple[str, Tensor]]:
    for kind in ("weight", "bias"):
        yield f"attn.in_proj_{kind}", torch.cat([state[f"{start}self_attn.{x}_proj.{kind}"] for x in "qkv"])
        yield f"attn.out_proj.{kind}", state[f"{start}self_attn.out_proj.{kind}"]
        for theirs, original in OPEN_CLIP_LAYER.items():
            yield f"{original}.{kind}", state[f"{start}{theirs}.{kind}"]


def ldm_tensors(components: Mapping[str, Any], family: Family) -> dict[str, Tensor]:
    """All tensors of a checkpoint under their original names."""
    first, second = components["text_encoder"], components.get("text_encoder_2")
    tensors = dict(unet_tensors(components["unet"])) | dict(vae_tensors(components["vae"]))
    if second is not None:
        return (
            tensors
            | dict(clip_tensors(first, XL_CLIP))
            | dict(open_clip_tensors(second, XL_OPEN_CLIP, another_layer=False))
        )
    if family.parts["text_encoder"].open_clip:
        return tensors | dict(open_clip_tensors(first, OPEN_CLIP, another_layer=True))
    return tensors | dict(clip_tensors(first, CLIP))


def ema_name(name: str) -> str:
    """The name of a tensor's running mean: dots left out."""
    return EMA + name.removeprefix(UNET).replace(".", "")


def save(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path, metadata=metadata)
    return path


SMALLER = 64
"""How many times narrower texts are than those of a whole checkpoint."""


def tiny_unet(config: Mapping[str, Any]) -> dict[str, Any]:
    """What changes in a UNet's config."""
    levels, heads = len(config["block_out_channels"]), config["attention_head_dim"]
    changes = {
        "norm_num_groups": 4,
        "sample_size": 8,
        "block_out_channels": [8, 16, 24, 24][:levels],
        "attention_head_dim": [2, 4, 4, 4][:levels] if isinstance(heads, list) else 2,
        "cross_attention_dim": config["cross_attention_dim"] // SMALLER,
    }
    if config.get("addition_embed_type") != "text_time":
        return changes
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    added = {"projection_class_embeddings_input_dim": 6 * 8 + pooled // SMALLER}
    return {**changes, "addition_time_embed_dim": 8, **added}


def tiny_text_encoder(config: Mapping[str, Any]) -> dict[str, Any]:
    width = config["hidden_size"] // SMALLER
    return {"hidden_size": width, "intermediate_size": 16, "num_attention_heads": 2, "projection_dim": width}


CHANGES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "unet": tiny_unet,
    "vae": lambda config: {"block_out_channels": [8, 16, 24, 24], "norm_num_groups": 4},
    "text_encoder": tiny_text_encoder,
    "text_encoder_2": tiny_text_encoder,
    "scheduler": lambda config: {},
}


def tiny_family(family: Family, folder: Path) -> Family:
    """The same layers, few channels each, so that a checkpoint of all its tensors is small."""
    for file in family.configs.rglob("*.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        target = folder / family.key / file.relative_to(family.configs)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(config | CHANGES[file.parent.name](config)), encoding="utf-8")
    widths = {name: width // SMALLER for name, width in family.lora.widths.items()}
    lora = dataclasses.replace(family.lora, widths=widths)
    return dataclasses.replace(family, lora=lora, configs=folder / family.key)


def use_tiny_families(folder: Path, monkeypatch: Any) -> dict[str, Family]:
    """Let the loader take tiny checkpoints for whole ones, of all families."""
    tiny = {key: tiny_family(family, folder) for key, family in FAMILIES.items()}
    for key, family in tiny.items():
        monkeypatch.setitem(FAMILIES, key, family)
    return tiny


def components(family: Family) -> dict[str, Any]:
    """diffusers' and transformers' networks of a family, with random weights that do something."""
    made = networks(family)
    for network in (value for name, value in made.items() if name != "scheduler"):
        for value in network.parameters():  # biases and norms, too: a mix-up of two of them must show
            mean, spread = value.detach().mean(), value.detach().std(correction=0)
            torch.nn.init.normal_(value, float(mean.round()), max(0.05, float(spread)))
    return made


def networks(family: Family) -> dict[str, Any]:
    """The networks as the libraries make them."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    configs = family.configs
    made = {
        "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(str(configs / "unet"))),
        "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(str(configs / "vae"))),
        "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(str(configs / "text_encoder"))),
        "scheduler": DDIMScheduler.from_config(DDIMScheduler.load_config(str(configs / "scheduler"))),
    }
    if family.is_xl:
        config = CLIPTextConfig.from_pretrained(str(configs / "text_encoder_2"))
        made["text_encoder_2"] = CLIPTextModelWithProjection(config)
    return {name: value if name == "scheduler" else value.eval() for name, value in made.items()}


def write_full_size(family: Family, path: Path) -> Path:
    """A checkpoint of the published size in float16, written tensor by tensor; the networks are never in memory."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in ldm_tensors(networks(family), family).items()}
    offsets = [0, *accumulate(2 * math.prod(shape) for shape in shapes.values())]
    header = {
        name: {"dtype": "F16", "shape": shape, "data_offsets": place}
        for (name, shape), place in zip(shapes.items(), pairwise(offsets), strict=True)
    }
    text = json.dumps(header).encode()
    pool = np.random.default_rng(0).standard_normal(2**20).astype(np.float32)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            write_random(file, name, shape, pool)
    return path


def write_random(file: Any, name: str, shape: tuple[int, ...], pool: Any) -> None:
    """Norms 1, biases 0, and numbers that keep the size of what goes through, again and again the same."""
    if len(shape) == 1:
        file.write(np.full(shape, float(name.endswith("weight")), np.float16).tobytes())
        return
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
    block = (pool / math.sqrt(max(1, fan_in))).astype(np.float16).tobytes()
    left = 2 * math.prod(shape)
    while left:
        left -= file.write(block[:left])
