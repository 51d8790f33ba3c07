"""The real ComfyUI, in this process, with a reduced checkpoint."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

sys.path.append(os.environ["COMFYUI_DIR"])

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.sample
import comfy.sd
from reduced_checkpoints import checkpoint


@torch.inference_mode()
def objects(family: str = "sd1") -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE."""
    return comfy.sd.load_checkpoint_guess_config(str(checkpoint(family)))[:3]
