"""A family that nobody has described: its layers keep their own names, under the prefix that ComfyUI reads for any model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlr_core.families.component import Place, Role
from rlr_core.families.lora_family import LoraFamily


@dataclass(frozen=True)
class GenericFamily(LoraFamily):
    """LoRAs on the linear layers of any denoiser, for ComfyUI alone ("diffusion_model.<path>").

    Attributes:
        architecture: for ModelSpec's metadata, as "z-image-turbo"; "/lora" is added.
    """

    key: str
    title: str
    architecture: str
    card: str = "Unknown"
    formats: tuple[str, ...] = ("comfyui",)
    targets: Mapping[str, str] = field(
        default_factory=lambda: {"attention": r".*(attn|attention).*", "all": r".*"}
    )
    text_targets: str = ""

    def stem(self, place: Place, format: str) -> str:
        if format not in self.formats:
            raise KeyError(format)
        return f"diffusion_model.{place.path}"

    def place(self, network: str, role: Role, path: str) -> Place:
        return Place(network, path)

    def metadata(self, prediction: str | None) -> dict[str, str]:
        facts = {"modelspec.architecture": f"{self.architecture}/lora"}
        return facts | ({"modelspec.prediction_type": prediction} if prediction else {})
