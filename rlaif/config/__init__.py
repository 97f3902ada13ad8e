"""One YAML file per run: strict keys, one table per stage. `rlaif.judge.load` reads it."""

from rlaif.config.fields import ConfigTable, LoraTable
from rlaif.config.judge import AskingConfig, CardConfig, JudgeConfig, PanelMember
from rlaif.config.ppo import NAMED, PpoConfig, RewardSource
from rlaif.config.run_config import (
    ALIGNERS,
    STAGES,
    AlignerName,
    DpoConfig,
    EvaluateConfig,
    LabelConfig,
    ModelConfig,
    PolicyName,
    Pooling,
    PromptSlice,
    ReportConfig,
    ReviseConfig,
    RewardConfig,
    RunConfig,
    SftConfig,
    StageName,
    TrackerName,
)

__all__ = [
    "ALIGNERS",
    "NAMED",
    "STAGES",
    "AlignerName",
    "AskingConfig",
    "CardConfig",
    "ConfigTable",
    "DpoConfig",
    "EvaluateConfig",
    "JudgeConfig",
    "LabelConfig",
    "LoraTable",
    "ModelConfig",
    "PanelMember",
    "PolicyName",
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
    "TrackerName",
]
