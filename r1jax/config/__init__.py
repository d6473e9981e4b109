"""ConfigDict -> frozen sections: one dataclass a section, checked once, at start.

`configs/NAME.py:get_config()` returns a complete, locked `ConfigDict`; `stage_config` splats it into the
dataclasses of this folder, so that a missing, unknown or ill-typed key fails before any work is done. No value in them
has a default: a config is the whole truth about a run. What may be left out is an option as a whole (a section
`| None`, a list), and then the stage does without.
"""

from r1jax.config.build import (
    as_before,
    checkpoint_config,
    stage_config,
    to_dict,
)
from r1jax.config.datasets import JoinConfig, RewriterConfig, SelectionConfig, WayConfig
from r1jax.config.policy import (
    PolicyConfig,
)
from r1jax.config.sections import (
    BatchConfig,
    CheckpointConfig,
    ComparisonBatchConfig,
    DataConfig,
    DynamicSamplingConfig,
    EvaluationConfig,
    GrpoConfig,
    HeldOutConfig,
    LogConfig,
    LongerConfig,
    MeshConfig,
    OffloadConfig,
    OptimizerConfig,
    PpoConfig,
    PrecisionConfig,
    RaftConfig,
    RewardsConfig,
    RewardSpec,
    RolloutConfig,
    RouterConfig,
    SourceSpec,
    TaskSpec,
    TeacherConfig,
    TokenizerConfig,
)
from r1jax.config.stages import (
    CONVERTED,
    STAGES,
    AnyStage,
    ColdStartStage,
    ConvertedStage,
    DatasetStage,
    RejectionStage,
    RewardModelStage,
    RlStage,
    SftStage,
    TrainedStage,
)

__all__ = [
    "CONVERTED",
    "STAGES",
    "AnyStage",
    "BatchConfig",
    "CheckpointConfig",
    "ColdStartStage",
    "ComparisonBatchConfig",
    "ConvertedStage",
    "DataConfig",
    "DatasetStage",
    "DynamicSamplingConfig",
    "EvaluationConfig",
    "GrpoConfig",
    "HeldOutConfig",
    "JoinConfig",
    "LogConfig",
    "LongerConfig",
    "MeshConfig",
    "OffloadConfig",
    "OptimizerConfig",
    "PolicyConfig",
    "PpoConfig",
    "PrecisionConfig",
    "RaftConfig",
    "RejectionStage",
    "RewardModelStage",
    "RewardSpec",
    "RewardsConfig",
    "RewriterConfig",
    "RlStage",
    "RolloutConfig",
    "RouterConfig",
    "SelectionConfig",
    "SftStage",
    "SourceSpec",
    "TaskSpec",
    "TeacherConfig",
    "TokenizerConfig",
    "TrainedStage",
    "WayConfig",
    "as_before",
    "checkpoint_config",
    "stage_config",
    "to_dict",
]
