"""What the configs of a folder say, checked before a library computes with it: sizes in bounds, numbers where numbers belong.

What is only unusual passes: whether a network can be made of it, and whether the weights fit, is found out when it is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    return config
