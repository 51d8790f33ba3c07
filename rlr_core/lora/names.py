"""What a layer of a checkpoint is called in LoRA files of each format.

A `Place` is a network and the path of a layer in it, in diffusers' and transformers' words. A *stem* is what a format
makes of it; the suffix after the stem says which tensor it is.

kohya      lora_unet_down_blocks_0_attentions_0_proj_in      lora_te_
  SDXL     lora_unet_input_blocks_4_1_proj_in                lora_te1_, lora_te2_
diffusers  unet.down_blocks.0.attentions.0.proj_in           text_encoder., text_encoder_2.
comfyui    diffusion_model.input_blocks.1.1.proj_in          text_encoders.clip_l.transformer., clip_h, clip_g
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rlr_core.lora.ldm import from_ldm, to_ldm

UNET, TEXT, TEXT_2 = "unet", "text_encoder", "text_encoder_2"
COMFYUI_TEXT = {"sd1": {TEXT: "clip_l"}, "sd2": {TEXT: "clip_h"}, "sdxl": {TEXT: "clip_l", TEXT_2: "clip_g"}}
"""Family → network → ComfyUI's name of the text encoder."""

_NAMES = """
    down_blocks mid_block up_blocks attentions resnets downsamplers upsamplers transformer_blocks proj_in proj_out attn1 attn2
    to_q to_k to_v to_out ff net proj conv conv1 conv2 conv_shortcut time_emb_proj conv_in conv_out time_embedding add_embedding
    linear_1 linear_2 input_blocks middle_block output_blocks in_layers emb_layers out_layers skip_connection op time_embed
    label_emb out text_model encoder layers self_attn q_proj k_proj v_proj out_proj mlp fc1 fc2 text_projection
"""
_WORDS = frozenset(_NAMES.split())
_LONGEST_FIRST = re.compile("|".join([*sorted(_WORDS, key=len, reverse=True), r"\d+"]))


class Place(NamedTuple):
    """A layer: the network ("unet", "text_encoder" or "text_encoder_2") and its path there."""

    network: str
    path: str


def kohya_stem(place: Place, family: str = "sd1") -> str:
    """The default format; A1111, Forge, ComfyUI and diffusers read it. For SDXL's UNet sd-scripts writes the original names."""
    prefixes = {UNET: "unet", TEXT: "te1" if family == "sdxl" else "te", TEXT_2: "te2"}
    original = family == "sdxl" and place.network == UNET
    path = to_ldm(place.path, attention_in_first_up_block=True) if original else place.path
    return f"lora_{prefixes[place.network]}_{path.replace('.', '_')}"


def diffusers_stem(place: Place, family: str = "sd1") -> str:
    """What diffusers' `save_lora_weights` writes."""
    return f"{place.network}.{place.path}"


def comfyui_stem(place: Place, family: str = "sd1") -> str:
    """The names of ComfyUI's own layers."""
    if place.network == UNET:
        path = to_ldm(place.path, attention_in_first_up_block=family == "sdxl")
        return f"diffusion_model.{path}"
    return f"text_encoders.{COMFYUI_TEXT[family][place.network]}.transformer.{place.path}"


STEMS = {"kohya": kohya_stem, "diffusers": diffusers_stem, "comfyui": comfyui_stem}
"""Format → what writes its stems."""

_FLAT_PREFIXES = {"lora_unet_": UNET, "lora_te_": TEXT, "lora_te1_": TEXT, "lora_te2_": TEXT_2}
_DOTTED_PREFIXES = {
    "unet.": ("diffusers", UNET),
    "text_encoder.": ("diffusers", TEXT),
    "text_encoder_2.": ("diffusers", TEXT_2),
    "diffusion_model.": ("comfyui", UNET),
    "text_encoders.clip_l.transformer.": ("comfyui", TEXT),
    "text_encoders.clip_h.transformer.": ("comfyui", TEXT),
    "text_encoders.clip_g.transformer.": ("comfyui", TEXT_2),
    "base_model.model.": ("peft", ""),
    "": ("peft", ""),
}


def read_stem(stem: str) -> tuple[str, Place] | None:
    """Format and place of a stem in any of the formats, with their older variants; None for one that is not understood."""
    for prefix, network in _FLAT_PREFIXES.items():
        if stem.startswith(prefix):
            path = stem.removeprefix(prefix)
            words = _LONGEST_FIRST.findall(path)
            return _read_dotted("kohya", network, ".".join(words)) if "_".join(words) == path else None
    for prefix, (kind, network) in _DOTTED_PREFIXES.items():
        if stem.startswith(prefix):
            return _read_dotted(kind, network, stem.removeprefix(prefix))
    raise AssertionError("every stem starts with the empty prefix")


def _read_dotted(kind: str, network: str, path: str) -> tuple[str, Place] | None:
    path = path.replace(".processor.", ".")
    if re.search(r"attn[12]\.to_out$", path):
        path += ".0"
    if not all(word in _WORDS or word.isdecimal() for word in path.split(".")):
        return None
    text = path.startswith(("text_model.", "encoder.", "text_projection"))
    network = network or (TEXT if text else UNET)
    if text != (network != UNET):
        return None
    if text:
        path = re.sub(r"self_attn\.to_(q|k|v|out)$", r"self_attn.\1_proj", path)
        return kind, Place(network, f"text_model.{path}" if path.startswith("encoder.") else path)
    try:
        return kind, Place(network, from_ldm(path) if _is_ldm(path) else path)
    except KeyError:
        return None


def _is_ldm(path: str) -> bool:
    return path.startswith(
        ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.")
    )
