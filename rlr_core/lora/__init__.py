"""LoRA (arXiv 2106.09685): injected into a model's networks, ejected without a trace; files for all hosts.

Effect on a layer: W·x + strength · alpha/rank · up(down(x)). `LoraWeights` says it for any model and any file: a `Place`
(component and path) → down, up, alpha; the model's `LoraFamily` turns it into the keys of a format. In a network a `Lora` is
through peft (`PeftLora`) or, where that is not installed, by hooks (`HookedLora`).
"""

from rlr_core.families import Place
from rlr_core.lora.files import LoraFile, read_lora, write_lora
from rlr_core.lora.injected import InjectedLora
from rlr_core.lora.injection import inject, load_lora
from rlr_core.lora.protocol import Lora
from rlr_core.lora.weights import LayerWeights, LoraWeights

__all__ = [
    "InjectedLora", "LayerWeights", "Lora", "LoraFile", "LoraWeights", "Place", "inject", "load_lora", "read_lora",
    "write_lora",
]  # fmt: skip
