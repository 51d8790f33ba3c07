"""Which layers of a diffusers UNet get a LoRA; only such as A1111, ComfyUI and diffusers can load."""

from __future__ import annotations

import re
from typing import Any

from rlr_core.errors import ConfigError

_ATTENTION = r"attn[12]\.(to_q|to_k|to_v|to_out\.0)"
_FEEDFORWARD = r"ff\.net\.(0\.proj|2)|attentions\.\d+\.(proj_in|proj_out)"
_CONVOLUTIONS = (
    r"resnets\.\d+\.(conv1|conv2|time_emb_proj|conv_shortcut)|downsamplers\.\d+\.conv|upsamplers\.\d+\.conv"
)
TARGETS = {
    "attention": _ATTENTION,
    "attention+feedforward": f"{_ATTENTION}|{_FEEDFORWARD}",
    "all": f"{_ATTENTION}|{_FEEDFORWARD}|{_CONVOLUTIONS}",
}
"""`lora.targets` → pattern for the end of a layer's path; "all" (kohya: LoCon) adds the residual blocks."""
PREFIX = "lora_unet_"


def target_layers(unet: Any, targets: str) -> list[str]:
    """Paths of the layers, in the UNet's order. Raises `ConfigError` if there are none."""
    pattern = re.compile(rf"(.*\.)?({TARGETS[targets]})")
    names = [name for name in loadable_layers(unet) if pattern.fullmatch(name)]
    if not names:
        raise ConfigError(
            f"lora.targets = '{targets}'", "targets that this UNet has", "set lora.targets = 'all'"
        )
    return names


def loadable_layers(unet: Any) -> list[str]:
    """Paths of all linear layers and convolutions, in the UNet's order."""
    from torch.nn import Conv2d, Linear

    return [name for name, module in unet.named_modules() if isinstance(module, Linear | Conv2d)]


def kohya_name(layer: str) -> str:
    """`down_blocks.0.attn1.to_q` → `lora_unet_down_blocks_0_attn1_to_q`."""
    return PREFIX + layer.replace(".", "_")
