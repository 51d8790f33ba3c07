"""What a checkpoint is, file or folder, without loading it."""

from __future__ import annotations

from pathlib import Path

from rlr_core.errors import CheckpointError
from rlr_core.models.description import Description
from rlr_core.models.detection import PRECISIONS, describe_file
from rlr_core.models.families import FAMILIES, Family, family_of_pipeline
from rlr_core.models.folder import WEIGHTS, inspect, kind_of, read_json
from rlr_core.safetensors_header import read_header


def describe(path: Path, *, allow_pickle: bool = False) -> Description:
    """Raises `CheckpointError`, naming the file, for what is damaged or cannot be trained on."""
    return describe_folder(path) if path.is_dir() else describe_file(path, allow_pickle=allow_pickle)


def describe_folder(path: Path) -> Description:
    """Of a folder in diffusers' layout."""
    family, unet = family_of_folder(path), read_json(path / "unet" / "config.json")
    has_vae = (path / "vae").is_dir()
    inspect(path, vae=has_vae)
    scheduler = read_json(path / "scheduler" / "scheduler_config.json")
    size = unet.get("sample_size", 64)
    pixels = _pixels_per_latent(path) if has_vae else 8
    return Description(
        layout="folder",
        family=family.title,
        prediction=str(scheduler.get("prediction_type", "epsilon")),
        prediction_rule="its scheduler_config.json",
        zero_snr=bool(scheduler.get("rescale_betas_zero_snr", False)),
        size=(size if isinstance(size, int) else size[0]) * pixels,
        precision=_precision(path / "unet"),
        ema="none",
        missing=() if has_vae else ("vae",),
    )


def family_of_folder(path: Path) -> Family:
    """Raises `CheckpointError` for folders of other families."""
    kind = kind_of(path)
    width = read_json(path / "unet" / "config.json").get("cross_attention_dim", 0)
    family = family_of_pipeline(kind, width)
    if family is None:
        known = dict.fromkeys(family.pipeline for family in FAMILIES)
        raise CheckpointError(
            f"{path} is a checkpoint for {kind}",
            f"{' or '.join(known)}: Stable Diffusion 1.x, 2.x or XL, for text to image",
            "choose a Stable Diffusion checkpoint for text to image; other families are not supported yet",
        )
    return family


def _pixels_per_latent(path: Path) -> int:
    return 2 ** (len(read_json(path / "vae" / "config.json").get("block_out_channels", [0] * 4)) - 1)


def _precision(unet: Path) -> str:
    """That of the first tensor of the first file."""
    files = sorted(unet.glob(f"{WEIGHTS['unet']}*.safetensors"))
    plain = unet / f"{WEIGHTS['unet']}.safetensors"
    tensors = read_header(plain if plain in files else files[0]).tensors
    return PRECISIONS.get(next(iter(tensors.values())).dtype, "unknown")
