"""Everything that defines a run, in one serialisable object: `RunConfig`, read from TOML.

Unknown keys are errors that name the nearest key. Every field's comment is what `rlr config` prints beside it.
"""

from rlr_core.config.changes import Change, changes, free_settings, missing_settings
from rlr_core.config.judging import Judged
from rlr_core.config.presets import PRESETS, Preset, nearest, preset
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
from rlr_core.config.toml import layered, load, parse_override, read_settings, to_guide, to_toml

__all__ = [
    "PRESETS",
    "AlarmConfig",
    "Change",
    "EstimatorConfig",
    "InferenceConfig",
    "Judged",
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
    "nearest",
    "parse_override",
    "preset",
    "read_settings",
    "to_dict",
    "to_guide",
    "to_toml",
]
