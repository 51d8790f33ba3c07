"""What a single-file checkpoint's UNet predicts, ε or v.

Its layers are the same either way; so hints are looked for, in this order:

1. a tensor called `v_pred` (which trainers of v-prediction models leave as a mark; ComfyUI and A1111 read it);
2. ModelSpec's metadata, `modelspec.prediction_type`, or else `modelspec.architecture`;
3. a file beside it with the ending .yaml that says `parameterization: "v"` (A1111's way);
4. in family 2.x, the file's name: the published checkpoints are called 768-v, v2-1_768-… and 512-base, v2-1_512-…;
5. in family 2.x, the spread of one bias, which tells the published checkpoints apart (ComfyUI's way; the one weight read here);
6. otherwise it is ε, as nearly always in 1.x and XL; unless the file's name says v, when nothing is taken for granted.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from rlr_core.families import StableDiffusionFamily
from rlr_core.models.tensor_files import TensorFile

EPSILON, VELOCITY = "epsilon", "v_prediction"
WORDS = {
    "epsilon": EPSILON,
    "eps": EPSILON,
    "v": VELOCITY,
    "v_prediction": VELOCITY,
    "v-prediction": VELOCITY,
}
BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
SPREAD = 0.09
"""Of that bias: more in the published v-prediction checkpoints, less in the others."""
EITHER = "epsilon or v_prediction"
"""What the name alone contradicts."""
SAYS_VELOCITY = re.compile(r"v[-_ ]?(pred|param)")
"""In the lower-case name of a file."""
LONGEST_SIDECAR = 64 * 1024


def find_prediction(path: Path, weights: TensorFile, family: StableDiffusionFamily) -> tuple[str, str]:
    """The prediction type, or `EITHER`, and by which rule."""
    if "v_pred" in weights.header.tensors:
        return VELOCITY, "its v_pred mark"
    metadata = weights.header.metadata
    if said := WORDS.get(metadata.get("modelspec.prediction_type", "").lower()):
        return said, "its metadata"
    for prediction, architecture in family.lora.architectures.items():
        if len(family.lora.architectures) > 1 and metadata.get("modelspec.architecture") == architecture:
            return prediction, "its metadata"
    if said := _beside(path):
        return said, f"{path.stem}.yaml"
    if family.lora.second:
        return _second_generation(path, weights)
    if SAYS_VELOCITY.search(path.stem.lower()):
        return EITHER, "its name says v, and no mark does: set model.prediction"
    return EPSILON, "usual for the family"


def _beside(path: Path) -> str | None:
    """What the .yaml says."""
    sidecar = path.with_suffix(".yaml")
    if not os.path.isfile(sidecar):  # a pipe would be waited for
        return None
    try:
        with sidecar.open(encoding="utf-8", errors="replace") as file:
            found = re.search(r"parameterization:\s*[\"']?(v|eps)\b", file.read(LONGEST_SIDECAR))
    except OSError:
        return None
    return WORDS[found[1]] if found else None


def _second_generation(path: Path, weights: TensorFile) -> tuple[str, str]:
    name = path.stem.lower()
    if re.search(r"(?<!\d)768(?!\d)|(?<![a-z])v[-_]?pred", name):
        return VELOCITY, "its name"
    if re.search(r"(?<!\d)512(?!\d)", name):
        return EPSILON, "its name"
    if BIAS not in weights.header.tensors:
        return VELOCITY, "a guess; model.prediction overrides it"
    wide = weights.tensors([BIAS])[BIAS].float().std(correction=0) > SPREAD
    return (VELOCITY if wide else EPSILON), "a guess from one bias; model.prediction overrides it"
