"""LoRA (arXiv 2106.09685): injected into a checkpoint's networks through peft, ejected without a trace; files for all hosts.

Effect on a layer: W·x + strength · alpha/rank · up(down(x)). `LoraWeights` says it for any model and any file: a `Place`
(network and path) → down, up, alpha. `names` and `formats` turn it into the keys of kohya, diffusers or ComfyUI and back.
"""

from rlr_core.lora.files import LoraFile, read_lora, write_lora
from rlr_core.lora.injection import InjectedLora, inject, load_lora
from rlr_core.lora.names import Place
from rlr_core.lora.weights import LayerWeights, LoraWeights

__all__ = [
    "InjectedLora", "LayerWeights", "LoraFile", "LoraWeights", "Place", "inject", "load_lora", "read_lora", "write_lora",
]  # fmt: skip
