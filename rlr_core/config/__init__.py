"""Everything that defines a run, in one serialisable object: `RunConfig`, read from TOML.

Unknown keys are errors that name the nearest key. Every field's comment is what `rlr config` prints beside it.
"""

from rlr_core.config.presets import PRESETS, Preset, preset
from rlr_core.config.sections import (
    AlarmConfig,
    EstimatorConfig,
    InferenceConfig,
    LoraConfig,
    MemoryConfig,
    ModelConfig,
    OutputConfig,
    PromptConfig,
    RewardConfig,
    RunConfig,
    SamplingConfig,
    Size,
    TrainingConfig,
)
from rlr_core.config.tables import Tables, from_dict, merged, to_dict
from rlr_core.config.toml import layered, load, to_toml

__all__ = [
    "PRESETS",
    "AlarmConfig",
    "EstimatorConfig",
    "InferenceConfig",
    "LoraConfig",
    "MemoryConfig",
    "ModelConfig",
    "OutputConfig",
    "Preset",
    "PromptConfig",
    "RewardConfig",
    "RunConfig",
    "SamplingConfig",
    "Size",
    "Tables",
    "TrainingConfig",
    "from_dict",
    "layered",
    "load",
    "merged",
    "preset",
    "to_dict",
    "to_toml",
]
