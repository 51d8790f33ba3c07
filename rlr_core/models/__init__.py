"""Models behind the chain's denoiser protocol.

`load_model` gives a `Model`: what the trainer needs of a checkpoint (schedule, denoiser, conditioning, decoder, and its
networks with their roles), all of it frozen. A folder for each architecture; a host may bring a model of its own.
"""

from rlr_core.models.loading import load_configured, load_model
from rlr_core.models.model import Model, Sampler, TokenEncoder, WrappedModel, networks_of
from rlr_core.models.prompting import Prompted, prompted
from rlr_core.models.savings import Guests, away, saving_memory
from rlr_core.models.stable_diffusion.model import StableDiffusion, UNetDenoiser

__all__ = [
    "Guests",
    "Model",
    "Prompted",
    "Sampler",
    "StableDiffusion",
    "TokenEncoder",
    "UNetDenoiser",
    "WrappedModel",
    "away",
    "load_configured",
    "load_model",
    "networks_of",
    "prompted",
    "saving_memory",
]
