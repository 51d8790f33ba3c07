"""LoRAs of Stable Diffusion 1.x, 2.x and XL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rlr_core.families.component import Place, Role
from rlr_core.families.lora_family import LoraFamily
from rlr_core.families.stable_diffusion.stems import UNET, read_stem, unet_path, whole_text_path
from rlr_core.families.stable_diffusion.unet_paths import to_ldm

_ATTENTION = r"attn[12]\.(to_q|to_k|to_v|to_out\.0)"
_FEEDFORWARD = r"ff\.net\.(0\.proj|2)|attentions\.\d+\.(proj_in|proj_out)"
_CONVOLUTIONS = (
    r"resnets\.\d+\.(conv1|conv2|time_emb_proj|conv_shortcut)|downsamplers\.\d+\.conv|upsamplers\.\d+\.conv"
)
TARGETS = {
    "attention": rf"(.*\.)?({_ATTENTION})",
    "attention+feedforward": rf"(.*\.)?({_ATTENTION}|{_FEEDFORWARD})",
    "all": rf"(.*\.)?({_ATTENTION}|{_FEEDFORWARD}|{_CONVOLUTIONS})",
}
"""Only such layers as A1111, ComfyUI and diffusers can load; "all" (kohya: LoCon) adds the residual blocks."""
TEXT_TARGETS = (
    r"(.*\.)?(text_model\.encoder\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.(fc1|fc2)))"
)
FORMATS = "kohya", "diffusers", "comfyui"


@dataclass(frozen=True)
class StableDiffusionLora(LoraFamily):
    """One of the three.

    Attributes:
        version: `ss_base_model_version` (sd-scripts).
        widths: component → the width of the text that it reads (UNet) or makes (a text encoder).
        second: whether it is 2.x, which sd-scripts says by `ss_v2`.
        marks_velocity: whether a v-prediction model's version ends in "_v".
        architectures: prediction type → ModelSpec's `modelspec.architecture`; others have that of "epsilon".
        kohya: component → how kohya's names of its layers begin.
        comfyui: component → how ComfyUI's names of its layers begin.
        original_unet: whether kohya's format has the original names of the UNet's layers (sd-scripts writes them for SDXL).
        attention_in_first_up_block: see `to_ldm`.
        depth: transformer layers in the deepest of the UNet's attention blocks.
        marks: see `LoraFamily`.
    """

    key: str
    title: str
    card: str
    version: str
    widths: Mapping[str, int]
    architectures: Mapping[str, str]
    kohya: Mapping[str, str]
    comfyui: Mapping[str, str]
    second: bool = False
    marks_velocity: bool = True
    original_unet: bool = False
    attention_in_first_up_block: bool = False
    depth: int = 1
    marks: tuple[str, ...] = ()
    formats = FORMATS
    targets = TARGETS
    text_targets = TEXT_TARGETS
    implementation = "diffusers"

    def stem(self, place: Place, format: str) -> str:
        """The default, kohya's, is what A1111, Forge, ComfyUI and diffusers read."""
        original = place.network == UNET and (format == "comfyui" or self.original_unet)
        if format == "kohya":
            path = self.ldm_path(place.path) if original else place.path
            return self.kohya[place.network] + path.replace(".", "_")
        if format == "diffusers":
            return f"{place.network}.{place.path}"
        assert format == "comfyui", format
        return self.comfyui[place.network] + (self.ldm_path(place.path) if original else place.path)

    def ldm_path(self, path: str) -> str:
        """A UNet layer's path in the original layout. Raises `KeyError`."""
        return to_ldm(path, attention_in_first_up_block=self.attention_in_first_up_block)

    def read(self, stem: str) -> tuple[str, Place] | None:
        return read_stem(stem)

    def place(self, network: str, role: Role, path: str) -> Place:
        if role == Role.TEXT_ENCODER:
            return Place(network, whole_text_path(path))
        path = unet_path(path)
        self.ldm_path(path)
        return Place(network, path)

    def metadata(self, prediction: str | None) -> dict[str, str]:
        velocity = prediction == "v_prediction"
        architecture = self.architectures.get(prediction or "", self.architectures["epsilon"])
        facts = {
            "ss_base_model_version": self.version + ("_v" if velocity and self.marks_velocity else ""),
            "ss_v2": str(self.second),
            "modelspec.architecture": f"{architecture}/lora",
        }
        told = {"modelspec.prediction_type": "v" if velocity else "epsilon"} if prediction else {}
        return facts | told

    def has(self, place: Place, inputs: int, outputs: int) -> bool | None:
        if place.network not in self.widths:
            return False
        width = self.widths[place.network]
        if place.network != UNET:
            return width in (inputs, outputs)
        found = re.search(r"transformer_blocks\.(\d+)\.", place.path)
        number = int(found[1]) if found else 0
        if number >= self.depth:
            return False
        if place.path.endswith(("attn2.to_k", "attn2.to_v")):
            return inputs == width
        return True if number else None

    def claims(self, metadata: Mapping[str, str]) -> bool:
        """Old files of sd-scripts say nothing but whether they are of 2.x."""
        return super().claims(metadata) or (self.second and metadata.get("ss_v2") == "True")
