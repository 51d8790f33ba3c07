"""A family that nobody has described: its layers keep their own names, under the prefix that ComfyUI reads for any model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlr_core.families.component import Place, Role
from rlr_core.families.lora_family import LoraFamily

PREFIX = "diffusion_model."


@dataclass(frozen=True)
class GenericFamily(LoraFamily):
    """LoRAs on the linear layers of any denoiser, for ComfyUI alone ("diffusion_model.<path>").

    Attributes:
        architecture: for ModelSpec's metadata, as "z-image-turbo"; "/lora" is added.
        network: the name of the component that is the denoiser.
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
    network: str = "transformer"

    def stem(self, place: Place, format: str) -> str:
        if format not in self.formats:
            raise KeyError(format)
        return PREFIX + place.path

    def read(self, stem: str) -> tuple[str, Place] | None:
        if not stem.startswith(PREFIX):
            return None
        return "comfyui", Place(self.network, stem.removeprefix(PREFIX))

    def place(self, network: str, role: Role, path: str) -> Place:
        assert network == self.network, (
            f"the denoiser is called {network}: `network` of its GenericFamily says so"
        )
        return Place(network, path)

    def metadata(self, prediction: str | None) -> dict[str, str]:
        facts = {"modelspec.architecture": f"{self.architecture}/lora"}
        return facts | ({"modelspec.prediction_type": prediction} if prediction else {})
