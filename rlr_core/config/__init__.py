"""Everything that defines a run, in one serialisable object: `RunConfig`, read from TOML.

Unknown keys are errors that name the nearest key. Every field's comment is what `rlr config` prints beside it.
"""

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
from rlr_core.config.tables import from_dict, merged, to_dict
from rlr_core.config.toml import load, to_toml

__all__ = [
    "AlarmConfig",
    "EstimatorConfig",
    "InferenceConfig",
    "LoraConfig",
    "MemoryConfig",
    "ModelConfig",
    "OutputConfig",
    "PromptConfig",
    "RewardConfig",
    "RunConfig",
    "SamplingConfig",
    "Size",
    "TrainingConfig",
    "from_dict",
    "load",
    "merged",
    "to_dict",
    "to_toml",
]
