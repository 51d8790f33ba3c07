"""Stable Diffusion 1.x, 2.x and XL: detection, loading, and the model as the chain sees it."""

from rlr_core.families import FAMILIES
from rlr_core.models.architecture import Architecture
from rlr_core.models.stable_diffusion.detection.of_file import describe_file, has_unet
from rlr_core.models.stable_diffusion.detection.of_folder import describe_folder
from rlr_core.models.stable_diffusion.loading.assembly import load_blank, load_file, load_folder

STABLE_DIFFUSION = Architecture(
    title="Stable Diffusion",
    pipelines=tuple(dict.fromkeys(family.pipeline for family in FAMILIES.values())),
    is_file=has_unet,
    describe_file=describe_file,
    describe_folder=describe_folder,
    load_file=load_file,
    load_folder=load_folder,
    load_blank=load_blank,
    is_configs=lambda path: any(path == family.configs for family in FAMILIES.values()),
)
