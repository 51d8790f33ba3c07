"""What a checkpoint is, in plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """What can be told without reading weights.

    Attributes:
        layout: "file" or "folder".
        family: its title.
        size: side of its own pictures, in pixels.
        precision: of its weights, as "fp16" or "fp16, VAE fp32".
        missing: parts that it lacks, as "vae"; or has only in part, as "unet (3 of 686 tensors)".
        prediction: what the denoiser predicts, as "epsilon"; "" where there is nothing to tell.
        prediction_rule: what tells it.
        zero_snr: whether the last noise level is nothing but noise.
        ema: the network's running mean: "none", "beside" the weights (it is not used), or "only" it; "" where none is known.
    """

    layout: str
    family: str
    size: int
    precision: str
    missing: tuple[str, ...]
    prediction: str = ""
    prediction_rule: str = ""
    zero_snr: bool = False
    ema: str = ""

    def lines(self) -> list[tuple[str, str]]:
        """(What, value), for people; without what there is nothing to tell of."""
        snr = ", zero terminal SNR" if self.zero_snr else ""
        prediction = f"{self.prediction} ({self.prediction_rule}){snr}" if self.prediction else ""
        ema = {"": "", "none": "none", "beside": "there, not used", "only": "these alone, used"}[self.ema]
        lines = [
            ("family", self.family),
            ("layout", {"file": "single file", "folder": "diffusers folder"}[self.layout]),
            ("prediction", prediction),
            ("base resolution", f"{self.size} × {self.size}"),
            ("precision", self.precision),
            ("EMA weights", ema),
            ("missing", ", ".join(self.missing) or "nothing"),
        ]
        return [(what, value) for what, value in lines if value]
