"""What a checkpoint is, in plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """What can be told without reading weights.

    Attributes:
        layout: "file" or "folder".
        family: the title of one of `FAMILIES`.
        prediction: "epsilon", "v_prediction" or "sample".
        prediction_rule: what tells it.
        zero_snr: whether the last noise level is nothing but noise.
        size: side of its own pictures, in pixels.
        precision: of its weights, as "fp16" or "fp16, VAE fp32".
        ema: the UNet's running mean: "none", "beside" the weights (it is not used), or "only" it.
        missing: parts that it lacks, as "vae"; or has only in part, as "unet (3 of 686 tensors)".
    """

    layout: str
    family: str
    prediction: str
    prediction_rule: str
    zero_snr: bool
    size: int
    precision: str
    ema: str
    missing: tuple[str, ...]

    def lines(self) -> list[tuple[str, str]]:
        """(What, value), for people."""
        prediction = f"{self.prediction} ({self.prediction_rule})"
        return [
            ("family", self.family),
            ("layout", {"file": "single file", "folder": "diffusers folder"}[self.layout]),
            ("prediction", prediction + (", zero terminal SNR" if self.zero_snr else "")),
            ("base resolution", f"{self.size} × {self.size}"),
            ("precision", self.precision),
            (
                "EMA weights",
                {"none": "none", "beside": "there, not used", "only": "these alone, used"}[self.ema],
            ),
            ("missing", ", ".join(self.missing) or "nothing"),
        ]
