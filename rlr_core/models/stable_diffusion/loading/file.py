"""The parts of a checkpoint that is one file in the original (LDM) layout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from rlr_core.families import StableDiffusionFamily
from rlr_core.families.stable_diffusion.family import EMA, UNET
from rlr_core.models.architecture import Request
from rlr_core.models.description import Description
from rlr_core.models.diffusers_folder import read_json
from rlr_core.models.refusals import refuse_incomplete, refuse_untold
from rlr_core.models.stable_diffusion.detection.of_file import describe_file, family_of_file, part_names
from rlr_core.models.stable_diffusion.loading.clip_tokenizer import clip_tokenizer
from rlr_core.models.stable_diffusion.loading.conversion import text_encoder_of, unet_of
from rlr_core.models.stable_diffusion.loading.parts import Parts
from rlr_core.models.stable_diffusion.loading.scheduler import noise_scheduler
from rlr_core.models.stable_diffusion.loading.vae import load_vae
from rlr_core.models.tensor_files import TensorFile

OLD_NAMES = re.compile(r"(?<=^cond_stage_model\.transformer\.)(?=embeddings\.|encoder\.|final_layer_norm\.)")
"""Where the text encoder's names of some early checkpoints lack `text_model.`."""
FLAT = re.compile(
    r"(?<=put_blocks)\d+?(?=\d\D)|time_embed|label_emb|(?:in|out)put_blocks|middle_block|(?:in|out|emb)_layers"
    r"|skip_connection|transformer_blocks|attn[12]|to_(?:q|k|v|out)|norm\d?|proj_in|proj_out|proj|ff|net|conv|out|op"
    r"|weight|bias|\d"
)
"""The words of a UNet's tensor names, for names whose dots were left out."""


def file_parts(path: Path, tensors: TensorFile, request: Request) -> Parts:
    """Raises `CheckpointError`; see `load_model`."""
    described, family, dtype = (
        describe_file(path, tensors),
        family_of_file(path, tensors.header),
        request.dtype,
    )
    refuse_incomplete(path, described, separate_vae=request.vae is not None)
    refuse_untold(path, described, request.prediction)
    config = _scheduler_config(family, described)
    encoders = [name for name in family.parts if "text_encoder" in name]
    return Parts(
        family=family,
        unet=unet_of(path, _unet_tensors(tensors, family), family, described.size, dtype),
        vae=load_vae(request.vae or path, family, dtype, allow_pickle=request.allow_pickle),
        text_encoders=[
            text_encoder_of(path, _text_tensors(tensors, family, name), family, name, dtype)
            for name in encoders
        ],
        tokenizers=[clip_tokenizer()] * len(encoders),
        pads=[family.parts[name].pad for name in encoders],
        scheduler=noise_scheduler(config, request, path),
        zero_negative=family.is_xl,
    )


def _unet_tensors(file: TensorFile, family: StableDiffusionFamily) -> dict[str, Tensor]:
    """The UNet's; those of its running mean, if there are no others."""
    names = part_names(file.header, family.parts["unet"])
    if names:
        return file.tensors(names)
    flat = file.tensors(name for name in file.header.tensors if name.startswith(EMA))
    return {UNET + with_dots(name[len(EMA) :]): value for name, value in flat.items()}


def with_dots(name: str) -> str:
    """`input_blocks110in_layers0weight` → `input_blocks.11.0.in_layers.0.weight`."""
    return ".".join(FLAT.findall(name))


def _text_tensors(file: TensorFile, family: StableDiffusionFamily, component: str) -> dict[str, Tensor]:
    tensors = file.tensors(part_names(file.header, family.parts[component]))
    return {OLD_NAMES.sub("text_model.", name): value for name, value in tensors.items()}


def _scheduler_config(family: StableDiffusionFamily, described: Description) -> dict[str, Any]:
    config = read_json(family.configs / "scheduler" / "scheduler_config.json")
    config["prediction_type"] = described.prediction
    if described.zero_snr:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config
