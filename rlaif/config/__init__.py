"""One YAML file per run: strict keys, one table per stage. `rlaif.judge.load` reads it."""

from rlaif.config.fields import ConfigTable
from rlaif.config.judge import AskingConfig, CardConfig, JudgeConfig, PanelMember
from rlaif.config.run_config import (
    STAGES,
    EvaluateConfig,
    LabelConfig,
    LoraTable,
    ModelConfig,
    Pooling,
    PpoConfig,
    PromptSlice,
    ReportConfig,
    ReviseConfig,
    RewardConfig,
    RewardSource,
    RunConfig,
    SftConfig,
    StageName,
)

__all__ = [
    "STAGES",
    "AskingConfig",
    "CardConfig",
    "ConfigTable",
    "EvaluateConfig",
    "JudgeConfig",
    "LabelConfig",
    "LoraTable",
    "ModelConfig",
    "PanelMember",
    "Pooling",
    "PpoConfig",
    "PromptSlice",
    "ReportConfig",
    "ReviseConfig",
    "RewardConfig",
    "RewardSource",
    "RunConfig",
    "SftConfig",
    "StageName",
]
