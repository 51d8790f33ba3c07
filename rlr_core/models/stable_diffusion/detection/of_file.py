"""What a single file in the original (LDM) layout is: read off the header, in milliseconds."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from rlr_core.families import FAMILIES, StableDiffusionFamily
from rlr_core.families.stable_diffusion.family import EMA, UNET, Original
from rlr_core.models.description import Description
from rlr_core.models.refusals import TEXT_TO_IMAGE, WIDTHS, refuse, refuse_beside_a_unet, refuse_channels
from rlr_core.models.stable_diffusion.detection.prediction import find_prediction
from rlr_core.models.tensor_files import TensorFile, lacking, precision_of
from rlr_core.safetensors_header import Header, TensorInfo

TRANSFORMER = re.compile(rf"{re.escape(UNET)}input_blocks\.(\d+)\.1\.transformer_blocks\.(\d+)\.")
PRUNED = {
    "SSD-1B": {4: 2, 5: 2, 7: 4, 8: 4},
    "Segmind Vega": {4: 1, 5: 1, 7: 2, 8: 2},
    "KOALA 1B": {3: 2, 5: 6},
    "KOALA 700M": {3: 2, 5: 5},
    "a small Stable Diffusion 1.x (BK-SDM, Segmind's small-sd)": {1: 1, 3: 1, 5: 1},
}
"""What is known → transformer layers in the blocks on the way down (ComfyUI's `supported_models.py`; XL has 2, 2, 10, 10)."""
RUNNING_MEAN = Original(EMA, r".+", 0)


def has_unet(header: Header) -> bool:
    """Whether a file holds a UNet in the original layout."""
    return any(name.startswith("input_blocks") for name in _unet(header))


def describe_file(path: Path, tensors: TensorFile) -> Description:
    """Of the file at `path`, whose tensors are open. Raises `CheckpointError`, naming it, for what cannot be trained on."""
    header = tensors.header
    refuse_beside_a_unet(path, header)
    family = family_of_file(path, header)
    _refuse_pruned(path, header)
    precision = _precisions(path, header, family)
    prediction, rule = find_prediction(path, tensors, family)
    return Description(
        layout="file",
        family=family.title,
        prediction=prediction,
        prediction_rule=rule,
        zero_snr="ztsnr" in header.tensors,
        size=_size(header, family, prediction),
        precision=precision,
        ema=_ema(header),
        missing=tuple(missing_parts(header, family)),
    )


def _refuse_pruned(path: Path, header: Header) -> None:
    """Raise `CheckpointError` for a network that its authors made smaller: it is whole, but not the family's."""
    layers: dict[int, set[str]] = {}
    for name in header.tensors:
        if found := TRANSFORMER.match(name):
            layers.setdefault(int(found[1]), set()).add(found[2])
    depths = {block: len(numbers) for block, numbers in layers.items()}
    if what := next((what for what, known in PRUNED.items() if known == depths), ""):
        refuse(
            path,
            f"{what}, whose UNet has fewer layers",
            "choose the whole model, or its folder in diffusers' layout",
        )


def part_names(header: Header, part: Original) -> list[str]:
    """The names of a part's tensors."""
    own, start = re.compile(part.tensor), len(part.prefix)
    return [name for name in header.tensors if name.startswith(part.prefix) and own.fullmatch(name, start)]


def _unet(header: Header) -> dict[str, TensorInfo]:
    """Names without dots → what they are; of the UNet itself, or else of its running mean."""
    for prefix in (UNET, EMA):
        found = {
            name[len(prefix) :].replace(".", ""): info
            for name, info in header.tensors.items()
            if name.startswith(prefix)
        }
        if found:
            return found
    return {}


def family_of_file(path: Path, header: Header) -> StableDiffusionFamily:
    """By the width of the text that the UNet looks at. Raises `CheckpointError`."""
    unet = _unet(header)
    first = unet.get("input_blocks00weight")
    refuse_channels(path, first.shape[1] if first and len(first.shape) == 4 else 0)
    widths = {
        info.shape[-1] for name, info in unet.items() if name.endswith("attn2to_kweight") and info.shape
    }
    for family in FAMILIES.values():
        if widths == {family.context}:
            return family
    for width in widths & WIDTHS.keys():
        refuse(path, WIDTHS[width], TEXT_TO_IMAGE)
    refuse(
        path, f"of an unknown family: its UNet takes texts of width {sorted(widths)}", "choose another file"
    )


def _precisions(path: Path, header: Header, family: StableDiffusionFamily) -> str:
    """Of the UNet; and of the other parts, where theirs is another one."""
    found = {name: _precision(path, header, part) for name, part in family.parts.items()}
    most = found.pop("unet") or _precision(path, header, RUNNING_MEAN) or "unknown"
    others = [
        f"{name.replace('vae', 'VAE')} {text}" for name, text in found.items() if text not in ("", most)
    ]
    return ", ".join([most, *others])


def _precision(path: Path, header: Header, part: Original) -> str:
    return precision_of(path, header, part_names(header, part))


def _size(header: Header, family: StableDiffusionFamily, prediction: str) -> int:
    """What ModelSpec's metadata say, or else the family's own."""
    said = re.fullmatch(r"(\d{2,5})x(\d{2,5})", header.metadata.get("modelspec.resolution", ""))
    return int(said[1]) if said and said[1] == said[2] else family.own_size(prediction)


def _ema(header: Header) -> str:
    if not any(name.startswith(EMA) for name in header.tensors):
        return "none"
    return "beside" if any(name.startswith(UNET) for name in header.tensors) else "only"


def missing_parts(header: Header, family: StableDiffusionFamily) -> list[str]:
    """What `Description.missing` says: counted by name, so that one too many makes up for none that is not there."""
    missing: list[str] = []
    for name, part in family.parts.items():
        part = replace(RUNNING_MEAN, count=part.count) if name == "unet" and _ema(header) == "only" else part
        missing += lacking(name, len(part_names(header, part)), part.count)
    return missing
