"""What the configs of a folder say, checked before a library computes with it: sizes in bounds, numbers where numbers belong.

What is only unusual passes: whether a network can be made of it, and whether the weights fit, is found out when it is loaded.
What would compute something else than we do is refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rlr_core.errors import CheckpointError
from rlr_core.models.diffusers_folder import COPY_AGAIN, read_json
from rlr_core.safetensors_header import shown

Check = Callable[[Any], bool]


def _whole(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _number(low: float, high: float) -> Check:
    return lambda value: type(value) in (int, float) and low <= value <= high


def _one_of(*texts: str) -> Check:
    return lambda value: isinstance(value, str) and value in texts


def _each(check: Check, most: int = 8) -> Check:
    """Of a list."""
    return lambda value: isinstance(value, list) and 0 < len(value) <= most and all(map(check, value))


def _either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def _nothing(value: Any) -> bool:
    return value is None


def _flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _off(value: Any) -> bool:
    """Not there, or set to nothing."""
    return value is None or value is False or (type(value) in (int, float) and value == 0)


WIDTH, LAYERS, SMALL = _whole(1, 2**16), _whole(1, 64), _number(0, 1e6)
MAYBE_WIDTH = _either(_nothing, WIDTH)
TEXTS = _each(lambda value: isinstance(value, str))
NETWORK: dict[str, Check] = {
    "in_channels": WIDTH,
    "out_channels": WIDTH,
    "sample_size": _either(WIDTH, lambda value: _each(WIDTH)(value) and len(value) == 2),
    "block_out_channels": _each(WIDTH),
    "layers_per_block": _either(LAYERS, _each(LAYERS)),
    "down_block_types": TEXTS,
    "up_block_types": TEXTS,
    "norm_num_groups": WIDTH,
}
TEXT_MODEL: dict[str, Check] = {
    "vocab_size": _whole(1, 2**20),
    "max_position_embeddings": _whole(3, 2**12),
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": WIDTH,
    "projection_dim": WIDTH,
    "layer_norm_eps": SMALL,
}
CHECKS: dict[str, dict[str, Check]] = {
    "model_index.json": {"force_zeros_for_empty_prompt": _flag},
    "unet/config.json": {
        **NETWORK,
        "cross_attention_dim": _either(WIDTH, _each(WIDTH)),
        "attention_head_dim": _either(WIDTH, _each(WIDTH)),
        "num_attention_heads": _either(MAYBE_WIDTH, _each(WIDTH)),
        "transformer_layers_per_block": _either(LAYERS, _each(LAYERS)),
        "addition_embed_type": _either(_nothing, _one_of("text_time")),
        "addition_time_embed_dim": MAYBE_WIDTH,
        "projection_class_embeddings_input_dim": MAYBE_WIDTH,
        "class_embed_type": _nothing,
        "encoder_hid_dim_type": _nothing,
        "freq_shift": SMALL,
        "norm_eps": SMALL,
        "mid_block_scale_factor": _number(1e-6, 1e6),
    },
    "vae/config.json": {
        **NETWORK,
        "latent_channels": WIDTH,
        "scaling_factor": _number(1e-6, 1e6),
        "latents_mean": _either(_nothing, _each(_number(-1e6, 1e6), 64)),
        "latents_std": _either(_nothing, _each(_number(1e-6, 1e6), 64)),
        "force_upcast": _flag,
    },
    "text_encoder/config.json": TEXT_MODEL,
    "text_encoder_2/config.json": TEXT_MODEL,
    "scheduler/scheduler_config.json": {
        "num_train_timesteps": _whole(1, 100_000),
        "beta_start": _number(0, 1),
        "beta_end": _number(0, 1),
        "steps_offset": _whole(0, 1000),
        "prediction_type": _one_of("epsilon", "v_prediction", "sample"),
        "timestep_spacing": _one_of("leading", "trailing", "linspace"),
        "rescale_betas_zero_snr": _flag,
        "trained_betas": _either(_nothing, _each(_number(0, 1), 100_000)),
    },
}
"""File → setting → what it may be, where it is there."""
SCHEDULERS = tuple(
    f"{name}Scheduler"
    for name in (
        "DDIM", "DDIMInverse", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep",
        "DPMSolverMultistepInverse", "DPMSolverSDE", "DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete",
        "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "SASolver", "TCD",
        "UniPCMultistep",
    )
)  # fmt: skip
"""diffusers' schedulers that walk the noise levels of β. Those of EDM and of flow matching show the network other times."""


class Meant(NamedTuple):
    """What of a setting we compute, and what any other value would mean."""

    done: Check
    otherwise: str


OTHER_LEVELS = Meant(_one_of(*SCHEDULERS), "other noise levels than those of Stable Diffusion")
FLOW = Meant(_off, "noise levels of flow matching")
MEANINGS: dict[str, dict[str, Meant]] = {
    "model_index.json": {
        "scheduler": Meant(
            lambda value: isinstance(value, list) and len(value) == 2 and value[1] in (None, *SCHEDULERS),
            OTHER_LEVELS.otherwise,
        )
    },
    "unet/config.json": {
        "_class_name": Meant(_one_of("UNet2DConditionModel"), "another kind of network"),
        "time_cond_proj_dim": Meant(_nothing, "a network that is told the guidance scale (LCM)"),
        "num_class_embeds": Meant(_nothing, "a network that is told a class"),
        "attention_type": Meant(
            _either(_nothing, _one_of("default")), "a network that is told places (GLIGEN)"
        ),
        "encoder_hid_dim": Meant(_nothing, "a network that changes the text first"),
    },
    "vae/config.json": {
        "_class_name": Meant(_one_of("AutoencoderKL"), "another kind of VAE"),
        "shift_factor": Meant(_off, "latents that are shifted"),
    },
    "scheduler/scheduler_config.json": {
        "_class_name": OTHER_LEVELS,
        "beta_schedule": Meant(
            _one_of("linear", "scaled_linear", "squaredcos_cap_v2"), "another course of the noise levels"
        ),
        "thresholding": Meant(_off, "latents that are cut off (dynamic thresholding)"),
        "timestep_type": Meant(
            _either(_nothing, _one_of("discrete")), "times that are no whole numbers (EDM)"
        ),
        "snr_shift_scale": Meant(_either(_nothing, _number(1, 1)), "noise levels that are shifted"),
        "use_flow_sigmas": FLOW,
        "use_dynamic_shifting": FLOW,
    },
}
"""File → setting → what we do; a setting that is not there has the value that we do."""


def check_configs(checkpoint: Path) -> None:
    """Those of a whole folder that are there. Raises `CheckpointError` naming file and setting."""
    for name in CHECKS:
        if os.path.isfile(checkpoint / name):
            check_config(checkpoint / name, name)


def check_config(file: Path, kind: str) -> dict[str, Any]:
    """What one says that is of a kind in `CHECKS`. Raises `CheckpointError` naming file and setting."""
    config = read_json(file)
    for key, check in CHECKS[kind].items():
        if key in config and not check(config[key]):
            raise CheckpointError(
                f"{file} says {key} = {shown(config[key])}",
                "what a Stable Diffusion checkpoint has there",
                COPY_AGAIN,
            )
    for key, meant in MEANINGS.get(kind, {}).items():
        if key in config and not meant.done(config[key]):
            raise CheckpointError(
                f"{file} says {key} = {shown(config[key])}: {meant.otherwise}",
                "what Stable Diffusion computes",
                "choose another checkpoint; this kind is not supported yet",
            )
    return config
