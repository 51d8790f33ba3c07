"""LoRA (arXiv 2106.09685): injected into a UNet through peft, ejected without a trace, saved for hosts.

Effect on a layer: W·x + strength · alpha/rank · up(down(x)). Names are those of kohya's sd-scripts, which
A1111, Forge, ComfyUI and diffusers all read: `lora_unet_<path in diffusers' UNet>`, its dots
replaced by underscores, followed by `.lora_down.weight`, `.lora_up.weight` or `.alpha`.
"""

from rlr_core.lora.files import load_lora, save_lora
from rlr_core.lora.injection import InjectedLora, inject

__all__ = ["InjectedLora", "inject", "load_lora", "save_lora"]
