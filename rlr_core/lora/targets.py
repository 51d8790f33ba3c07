"""Which layers of a checkpoint's networks get a LoRA; only such as A1111, ComfyUI and diffusers can load."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlr_core.config import LoraConfig
from rlr_core.errors import ConfigError
from rlr_core.lora.names import UNET, Place

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
_TEXT = r"text_model\.encoder\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.(fc1|fc2))"


def target_layers(networks: Mapping[str, Any], config: LoraConfig) -> list[Place]:
    """The layers to be trained, in the networks' order. Raises `ConfigError` if there are none."""
    patterns = {UNET: re.compile(rf"(.*\.)?({TARGETS[config.targets]})")}
    patterns |= {name: re.compile(_TEXT) for name in networks if name != UNET and config.text_encoder}
    places = loadable_layers({name: networks[name] for name in patterns})
    chosen = [place for place in places if patterns[place.network].fullmatch(place.path)]
    for name in patterns:
        if not any(place.network == name for place in chosen):
            setting = f"lora.targets = '{config.targets}'" if name == UNET else "lora.text_encoder = true"
            raise ConfigError(
                f"{setting}, and the checkpoint's {name} has no such layer",
                "layers that it has",
                "change the setting",
            )
    return chosen


def loadable_layers(networks: Mapping[str, Any]) -> dict[Place, str]:
    """All linear layers and convolutions → their path in the network as it is."""
    from torch.nn import Conv2d, Linear

    return {
        Place(name, _canonical(name, path)): path
        for name, network in networks.items()
        for path, module in network.named_modules()
        if isinstance(module, Linear | Conv2d)
    }


def _canonical(network: str, path: str) -> str:
    """Newer versions of transformers leave out a text model's first part, which LoRA files have."""
    return f"text_model.{path}" if network != UNET and path.startswith("encoder.") else path
