"""Everything that defines a run, in one serialisable object: `RunConfig`, read from TOML.

Unknown keys are errors that name the nearest key. Every field's comment is what `rlr config` prints beside it.
"""

from rlr_core.config.changes import Change, changes, free_settings, missing_settings
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
from rlr_core.config.toml import layered, load, read_settings, to_toml

__all__ = [
    "PRESETS",
    "AlarmConfig",
    "Change",
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
    "changes",
    "free_settings",
    "from_dict",
    "layered",
    "load",
    "merged",
    "missing_settings",
    "preset",
    "read_settings",
    "to_dict",
    "to_toml",
]
