"""Stable Diffusion 1.x, 2.x and XL: detection, loading, and the model as the chain sees it."""

from rlr_core.families import FAMILIES
from rlr_core.models.architecture import Architecture, Folders
from rlr_core.models.stable_diffusion.detection.of_file import describe_file, has_unet
from rlr_core.models.stable_diffusion.detection.of_folder import describe_folder
from rlr_core.models.stable_diffusion.loading.assembly import load_file, load_folder

STABLE_DIFFUSION = Architecture(
    title="Stable Diffusion 1.x, 2.x or XL",
    is_file=has_unet,
    describe_file=describe_file,
    load_file=load_file,
    settings=("prediction", "zero_snr", "vae", "clip_skip"),
    folders=Folders(
        pipelines=tuple(dict.fromkeys(family.pipeline for family in FAMILIES.values())),
        is_configs=lambda path: any(path == family.configs for family in FAMILIES.values()),
        describe=describe_folder,
        load=load_folder,
    ),
)
