"""A UNet layer's path in the original (LDM, sgm) layout and in diffusers', for all Stable Diffusion UNets.

They all have two residual blocks at each level on the way down, three on the way up, and one block in the middle:
`input_blocks.N` is block (N-1) // 3, `output_blocks.N` block N // 3; the third of an input triple is the downsampler.
"""

from __future__ import annotations

import re

_RESIDUAL = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_SINGLE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}
_KINDS = ("resnets", "attentions")


def to_ldm(path: str, *, attention_in_first_up_block: bool) -> str:
    """`down_blocks.1.attentions.0.proj_in` → `input_blocks.4.1.proj_in`.

    Args:
        attention_in_first_up_block: as in SDXL; there the first upsampler is the third module of its block, else the second.

    Raises `KeyError` for a path that no Stable Diffusion UNet has.
    """
    if path in _SINGLE:
        return _SINGLE[path]
    if found := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", path):
        return f"input_blocks.{3 * int(found[1]) + 3}.0.op"
    if found := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", path):
        block = int(found[1])
        return (
            f"output_blocks.{3 * block + 2}.{1 if block == 0 and not attention_in_first_up_block else 2}.conv"
        )
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", path):
        return f"middle_block.{_MIDDLE[f'{found[1]}.{found[2]}']}.{_inside(found[1], found[3])}"
    if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d)\.(.+)", path):
        place = 3 * int(found[2]) + int(found[4])
        block = f"input_blocks.{place + 1}" if found[1] == "down" else f"output_blocks.{place}"
        return f"{block}.{_KINDS.index(found[3])}.{_inside(found[3], found[5])}"
    raise KeyError(path)


def from_ldm(path: str) -> str:
    """The inverse of `to_ldm`. Raises `KeyError` for a path that no Stable Diffusion UNet has."""
    for ours, theirs in _SINGLE.items():
        if path == theirs:
            return ours
    if found := re.fullmatch(r"middle_block\.([012])\.(.+)", path):
        block = next(name for name, place in _MIDDLE.items() if place == int(found[1]))
        return f"mid_block.{block}.{_outside(block, found[2])}"
    if found := re.fullmatch(r"(input|output)_blocks\.(\d+)\.([012])\.(.+)", path):
        return _from_block(found[1], int(found[2]), int(found[3]), found[4])
    raise KeyError(path)


def _from_block(side: str, number: int, module: int, rest: str) -> str:
    block, layer = divmod(number - (side == "input"), 3)
    if (side, layer, rest) == ("input", 2, "op"):
        return f"down_blocks.{block}.downsamplers.0.conv"
    if (side, layer, rest) == ("output", 2, "conv"):
        return f"up_blocks.{block}.upsamplers.0.conv"
    if module == 2 or block < 0 or (side, layer) == ("input", 2):
        raise KeyError(rest)
    kind = _KINDS[module]
    return f"{'down' if side == 'input' else 'up'}_blocks.{block}.{kind}.{layer}.{_outside(kind, rest)}"


def _inside(kind: str, rest: str) -> str:
    return _RESIDUAL[rest] if kind == "resnets" else rest


def _outside(kind: str, rest: str) -> str:
    if not kind.startswith("resnets"):
        return rest
    return {theirs: ours for ours, theirs in _RESIDUAL.items()}[rest]
