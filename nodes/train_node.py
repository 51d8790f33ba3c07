"""The node that trains: MODEL, CLIP and VAE in, the MODEL with its LoRA and the LoRA out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlr_core.config import RunConfig, from_dict
from rlr_core.errors import RunError
from rlr_core.estimators import ESTIMATORS
from rlr_core.lora.tensor_file import read_tensors
from rlr_core.rewards.library import PUBLISHED, REWARDS
from rlr_core.runs import RunDirectory
from rlr_core.trainer import Iteration

from .host import SCHEDULER_NAMES, loras_folder, outputs_folder, progress_bar, with_lora
from .training import Given, train
