"""A Stable Diffusion checkpoint in diffusers' folder layout, checked before any library reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlr_core.errors import CheckpointError
from rlr_core.families import FAMILIES, StableDiffusionFamily
from rlr_core.models.description import Description
from rlr_core.models.diffusers_folder import (
    COPY_AGAIN,
    EXPECTED,
    WeightsFile,
    find_weights,
    kind_of,
    read_json,
)
from rlr_core.models.stable_diffusion.detection.of_configs import check_configs
from rlr_core.models.tensor_files import PRECISIONS
from rlr_core.safetensors_header import read_header

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
"""Component → stem of its weights file."""
SECOND = {"text_encoder_2": "model"}
"""What XL has beside."""


@dataclass(frozen=True)
class CheckpointFolder:
    """A folder that has been found whole.

    Attributes:
        path: the folder.
        weights: component → where its weights are.
    """

    path: Path
    weights: dict[str, WeightsFile]


def describe_folder(path: Path, allow_pickle: bool) -> Description:
    """Raises `CheckpointError`, naming the file, for what is damaged or cannot be trained on."""
    family, unet = family_of_folder(path), read_json(path / "unet" / "config.json")
    has_vae = (path / "vae").is_dir()
    folder = inspect(path, vae=has_vae, allow_pickle=allow_pickle)
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
        precision=_precision(path / "unet", folder.weights["unet"]),
        ema="none",
        missing=() if has_vae else ("vae",),
    )


def family_of_folder(path: Path) -> StableDiffusionFamily:
    """The family that `model_index.json` names, by the width of the texts that the UNet takes, if that is known.

    Raises `CheckpointError`, also where one of its configs says what no checkpoint does.
    """
    check_configs(path)
    width = read_json(path / "unet" / "config.json").get("cross_attention_dim", 0)
    same = [family for family in FAMILIES.values() if family.pipeline == kind_of(path)]
    return next((family for family in same if family.context == width), same[0])


def inspect(checkpoint: Path, *, vae: bool = True, allow_pickle: bool = False) -> CheckpointFolder:
    """Check everything that can be checked without reading weights. Raises `CheckpointError`.

    Args:
        checkpoint: the folder.
        vae: whether it needs one.
        allow_pickle: whether its weights may be pickled files.
    """
    stems = WEIGHTS | (SECOND if family_of_folder(checkpoint).is_xl else {})
    if not vae:
        stems = {name: stem for name, stem in stems.items() if name != "vae"}
    tokenizers = [name.replace("text_encoder", "tokenizer") for name in stems if "text" in name]
    for name in (*stems, *tokenizers, "scheduler"):
        if not (checkpoint / name).is_dir():
            raise CheckpointError(f"{checkpoint} has no '{name}' folder", EXPECTED, COPY_AGAIN)
    for name in stems:
        read_json(checkpoint / name / "config.json")
    read_json(checkpoint / "scheduler" / "scheduler_config.json")
    for name in tokenizers:
        _check_tokenizer(checkpoint / name)
    _check_is_text_to_image(checkpoint)
    weights = {
        name: find_weights(checkpoint / name, stem, allow_pickle=allow_pickle) for name, stem in stems.items()
    }
    return CheckpointFolder(checkpoint, weights)


def _check_tokenizer(folder: Path) -> None:
    whole = (folder / "tokenizer.json").is_file()
    if not whole and not all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise CheckpointError(
            f"{folder} has no vocabulary", "vocab.json and merges.txt, or tokenizer.json", COPY_AGAIN
        )


def _check_is_text_to_image(checkpoint: Path) -> None:
    channels = read_json(checkpoint / "unet" / "config.json").get("in_channels", 4)
    latent = read_json(checkpoint / "unet" / "config.json").get("out_channels", 4)
    if channels != latent:
        kind = "an inpainting checkpoint" if channels == 2 * latent + 1 else "not a text-to-image checkpoint"
        raise CheckpointError(
            f"{checkpoint} is {kind}: its UNet takes {channels} channels",
            f"a text-to-image checkpoint, whose UNet takes the VAE's {latent} latent channels",
            "choose the text-to-image version of the checkpoint",
        )


def _pixels_per_latent(path: Path) -> int:
    return 2 ** (len(read_json(path / "vae" / "config.json").get("block_out_channels", [0] * 4)) - 1)


def _precision(unet: Path, weights: WeightsFile) -> str:
    """That of the first tensor of the first file."""
    if weights.pickled:
        return "not told by a pickled file"
    files = sorted(unet.glob(f"{WEIGHTS['unet']}*.safetensors"))
    plain = unet / f"{WEIGHTS['unet']}.safetensors"
    tensors = read_header(plain if plain in files else files[0]).tensors
    return PRECISIONS.get(next(iter(tensors.values())).dtype, "unknown")
