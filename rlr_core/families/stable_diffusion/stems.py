"""What a layer of a Stable Diffusion checkpoint is called in LoRA files of each format.

A `Place` names a layer in diffusers' and transformers' words. A *stem* is what a format makes of it; the suffix after the stem
says which tensor it is.

kohya      lora_unet_down_blocks_0_attentions_0_proj_in      lora_te_
  SDXL     lora_unet_input_blocks_4_1_proj_in                lora_te1_, lora_te2_
diffusers  unet.down_blocks.0.attentions.0.proj_in           text_encoder., text_encoder_2.
comfyui    diffusion_model.input_blocks.1.1.proj_in          text_encoders.clip_l.transformer., clip_h, clip_g
"""

from __future__ import annotations

import re
from functools import lru_cache

from rlr_core.families.component import Place
from rlr_core.families.stable_diffusion.unet_paths import from_ldm

UNET, TEXT, TEXT_2 = "unet", "text_encoder", "text_encoder_2"

_NAMES = """
    down_blocks mid_block up_blocks attentions resnets downsamplers upsamplers transformer_blocks proj_in proj_out attn1 attn2
    to_q to_k to_v to_out ff net proj conv conv1 conv2 conv_shortcut time_emb_proj conv_in conv_out time_embedding add_embedding
    linear_1 linear_2 input_blocks middle_block output_blocks in_layers emb_layers out_layers skip_connection op time_embed
    label_emb out text_model encoder layers self_attn q_proj k_proj v_proj out_proj mlp fc1 fc2 text_projection
"""
_WORDS = frozenset(_NAMES.split())
_LONGEST_FIRST = re.compile("|".join([*sorted(_WORDS, key=len, reverse=True), r"\d+"]))

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


@lru_cache(2**14)
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
        return kind, Place(network, whole_text_path(path))
    try:
        return kind, Place(network, unet_path(path))
    except KeyError:
        return None


def whole_text_path(path: str) -> str:
    """Newer versions of transformers leave out a text model's first part, which LoRA files have."""
    return f"text_model.{path}" if path.startswith("encoder.") else path


def unet_path(path: str) -> str:
    """A UNet layer's path in diffusers' words, also where it is given in those of the original layout. Raises `KeyError`."""
    return from_ldm(path) if path.startswith(_LDM) else path


_LDM = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.")
"""How paths begin in the original layout."""
