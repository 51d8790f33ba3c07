"""What is not a checkpoint that can be trained on, told apart by the names of its tensors, and refused by its own name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from rlr_core.errors import CheckpointError
from rlr_core.models.description import Description
from rlr_core.models.diffusers_folder import COPY_AGAIN
from rlr_core.safetensors_header import UNQUANTISED, Header

EXPECTED = "a checkpoint for text to image"
AS_VAE = "set model.vae to it, and model.checkpoint to a checkpoint"
BASE = "choose the checkpoint that it belongs to"
TEXT_TO_IMAGE = "choose the text-to-image version of the checkpoint"
UNSUPPORTED = "choose another checkpoint; this family is not supported yet"

BESIDE_A_UNET = {
    "\nedm_mean\n": ("a Playground 2.5 checkpoint, whose noise levels are others (EDM)", UNSUPPORTED),
    "\nedm_vpred.": ("a CosXL checkpoint, whose noise levels are others (EDM)", UNSUPPORTED),
    ".time_stack.": ("a Stable Video Diffusion checkpoint (video)", UNSUPPORTED),
    "motion_modules.": ("an AnimateDiff file (video)", UNSUPPORTED),
    "\ncontrol_model.": ("a ControlNet", BASE),
    "scaled_fp8": ("quantised (scaled fp8)", UNQUANTISED),
    ".comfy_quant": ("quantised", UNQUANTISED),
    ".absmax": ("quantised (bitsandbytes)", UNQUANTISED),
    ".qweight": ("quantised", UNQUANTISED),
}
"""Part of a tensor's name, between line breaks → what a file with a UNet is, and what to do."""
INSTEAD_OF_A_UNET = {
    ".lora_down.": ("a LoRA", BASE),
    ".lora_up.": ("a LoRA", BASE),
    ".lora_A.": ("a LoRA", BASE),
    ".lora.down.": ("a LoRA", BASE),
    ".hada_w1_a": ("a LoRA (LoHa)", BASE),
    ".lokr_w": ("a LoRA (LoKr)", BASE),
    "\nlora_unet_": ("a LoRA", BASE),
    "\nemb_params\n": ("a textual inversion embedding", BASE),
    "\nstring_to_param": ("a textual inversion embedding", BASE),
    "\nclip_g\n": ("a textual inversion embedding", BASE),
    "controlnet_cond_embedding.": ("a ControlNet", BASE),
    "input_hint_block.": ("a ControlNet", BASE),
    "\nip_adapter.": ("an IP-Adapter", BASE),
    "individual_token_refiner.": ("a HunyuanVideo checkpoint (video)", UNSUPPORTED),
    "distilled_guidance_layer.": ("a Chroma checkpoint", UNSUPPORTED),
    "double_stream_blocks.": ("a HiDream checkpoint", UNSUPPORTED),
    "double_stream_modulation": ("a FLUX.2 checkpoint", UNSUPPORTED),
    "double_blocks.0.img_attn.": ("a FLUX checkpoint", UNSUPPORTED),
    "single_transformer_blocks.0.": ("a FLUX checkpoint", UNSUPPORTED),
    "joint_blocks.0.": ("a Stable Diffusion 3 checkpoint", UNSUPPORTED),
    "double_layers.0.": ("an AuraFlow checkpoint", UNSUPPORTED),
    "patchify_proj.": ("an LTX-Video checkpoint (video)", UNSUPPORTED),
    "head.modulation": ("a Wan checkpoint (video)", UNSUPPORTED),
    "t5_yproj.": ("a Mochi checkpoint (video)", UNSUPPORTED),
    "net.x_embedder.": ("a Cosmos checkpoint (video)", UNSUPPORTED),
    "transformer_blocks.0.img_mod.": ("a Qwen-Image checkpoint", UNSUPPORTED),
    "cap_embedder.": ("a Lumina or Z-Image checkpoint", UNSUPPORTED),
    "adaln_single.": ("a PixArt checkpoint", UNSUPPORTED),
    ".channelwise.": ("a Stable Cascade checkpoint", UNSUPPORTED),
    "\ndown_blocks.0.resnets.0.": ("the UNet of a diffusers folder", "give the whole folder"),
    ".rdb1.conv1.": ("an upscaler", UNSUPPORTED),
    "encoder.down.0.block.": ("a VAE", AS_VAE),
    "encoder.down_blocks.0.resnets.": ("a VAE", AS_VAE),
    "decoder.up.0.block.": ("a VAE", AS_VAE),
    "text_model.encoder.layers.0.": ("a text encoder", BASE),
    "transformer.resblocks.0.": ("a text encoder", BASE),
    "encoder.block.0.layer.0.": ("a text encoder (T5)", BASE),
}
"""The same for a file without one; the first that fits counts."""
CHANNELS = {
    5: "a depth-to-image checkpoint",
    7: "an upscaler",
    8: "an InstructPix2Pix checkpoint",
    9: "an inpainting checkpoint",
}
"""What the UNet takes, if not the 4 channels of a latent."""
WIDTHS = {1280: "the SDXL refiner"}
"""Width of the text conditioning → what is known to have it, and is no base model."""


def refuse(path: Path, what: str, do: str, known: str = "") -> NoReturn:
    """Raise `CheckpointError`: the file is `what`; `known` names what would be taken."""
    raise CheckpointError(f"{path} is {what}", EXPECTED + (f": {known}" if known else ""), do)


def refuse_beside_a_unet(path: Path, header: Header) -> None:
    """Raise `CheckpointError` for what the names of its tensors give away of a file with a UNet."""
    _refuse_marked(path, header, BESIDE_A_UNET)


def refuse_unknown(path: Path, header: Header, known: str) -> NoReturn:
    """Raise `CheckpointError` for a file of no architecture that is loaded, saying what it is where its names give it away.

    Args:
        known: what is loaded, for people.
    """
    _refuse_marked(path, header, {**BESIDE_A_UNET, **INSTEAD_OF_A_UNET}, known)
    raise CheckpointError(
        f"{path} holds nothing that is known: {len(header.tensors)} tensors, none of a denoiser",
        f"{EXPECTED}: {known}",
        "choose another file",
    )


def _refuse_marked(
    path: Path, header: Header, markers: Mapping[str, tuple[str, str]], known: str = ""
) -> None:
    names = "\n" + "\n".join(header.tensors) + "\n"
    for marker, (what, do) in markers.items():
        if marker in names:
            refuse(path, what, do, known)


def refuse_channels(path: Path, channels: int) -> None:
    """Raise `CheckpointError` unless the UNet takes the 4 channels of a latent."""
    if channels != 4:
        what = CHANNELS.get(channels, "not a text-to-image checkpoint")
        refuse(path, f"{what}: its UNet takes {channels} channels", TEXT_TO_IMAGE)


def refuse_untold(path: Path, described: Description, prediction: str) -> None:
    """Raise `CheckpointError` where neither the file nor `prediction`, which is not "auto" then, tells what is predicted."""
    if prediction == "auto" and " or " in described.prediction:
        raise CheckpointError(
            f"{path} may predict {described.prediction}: {described.prediction_rule}",
            'model.prediction = "v_prediction" or "epsilon", and with v mostly model.zero_snr = "yes"',
            "set what its page says",
        )


def refuse_incomplete(path: Path, described: Description, *, separate_vae: bool) -> None:
    """Raise `CheckpointError` for a checkpoint that lacks a part; a VAE of its own may be another file."""
    missing = [part for part in described.missing if not (separate_vae and part.startswith("vae"))]
    if missing == ["vae"]:
        raise CheckpointError(
            f"{path} has no VAE", "one in it, or one of its own", "set model.vae to a VAE file or folder"
        )
    if missing:
        raise CheckpointError(
            f"{path} is not complete; it lacks {', '.join(missing)}",
            f"a whole {described.family}",
            COPY_AGAIN,
        )
