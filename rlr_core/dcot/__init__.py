"""Diffusive Chain-of-Thought (arXiv 2502.00639): a prompt per stage of denoising, and how people write it."""

from rlr_core.dcot.lines import format_line, parse_line
from rlr_core.dcot.stages import NAMES, Boundaries, StagePrompts, StageSettings, plain, stage_names, together
from rlr_core.dcot.switches import AS_THE_RUN, Shown

__all__ = [
    "AS_THE_RUN",
    "NAMES",
    "Boundaries",
    "Shown",
    "StagePrompts",
    "StageSettings",
    "format_line",
    "parse_line",
    "plain",
    "stage_names",
    "together",
]
