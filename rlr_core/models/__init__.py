"""Models behind the chain's denoiser protocol.

`load_model` gives a `Model`: what the chain needs of a checkpoint (schedule, denoiser, encoded prompts, decoder), all of it
frozen. One file for each model family.
"""

from rlr_core.models.loading import load_configured, load_model
from rlr_core.models.model import Model
from rlr_core.models.prompting import Prompted, prompted
from rlr_core.models.stable_diffusion import StableDiffusion, UNetDenoiser
from rlr_core.models.thrift import Guests, save_memory

__all__ = [
    "Guests",
    "Model",
    "Prompted",
    "StableDiffusion",
    "UNetDenoiser",
    "load_configured",
    "load_model",
    "prompted",
    "save_memory",
]
