"""Models behind the chain's denoiser protocol.

`load_model` gives a `StableDiffusion`: what the chain needs of a checkpoint (schedule, denoiser, encoded
prompts, decoder), all of it frozen. One file for each model family.
"""

from rlr_core.models.loading import load_model
from rlr_core.models.stable_diffusion import StableDiffusion, UNetDenoiser

__all__ = ["StableDiffusion", "UNetDenoiser", "load_model"]
