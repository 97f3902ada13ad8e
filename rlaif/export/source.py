"""What is exported of a run: its finished stages, and its base as it was when they stood on it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rlaif.config import ModelConfig, PolicyName, RunConfig
from rlaif.core.errors import ModelError, StageError
from rlaif.core.files import RunFolder, path_hash
from rlaif.core.records import StageRecord

Source = Literal["hub", "folder", "gguf"]
Policy = Literal["sft", "policy", "dpo"]
EVALUATED: dict[Policy, PolicyName] = {"sft": "sft", "policy": "ppo", "dpo": "dpo"}
"""Export -> its name in the run and its evaluation."""


def finished(run: RunFolder, stage: str) -> StageRecord:
    """The stage's record; StageError while it is not finished."""
    record = run.record(stage)
    if record is None:
        raise StageError(
            f"the {stage} stage is not finished", where=str(run.root), remedy=f"rlaif {stage} --run {run.root}"
        )
    return record


def adapters_of(run: RunFolder, config: RunConfig, which: Policy) -> tuple[tuple[Path, ...], StageRecord]:
    """The adapters that make the policy, in the order in which they stand on the base, and the record of the last.

    Raises StageError where one is not there, or stands on another than the run has now, and where there is no SFT.
    """
    name = EVALUATED[which]
    if name not in config.policies:
        others = [export for export, other in EVALUATED.items() if other in config.align_by]
        aligned = f"aligned by {' and '.join(config.align_by)}" if config.align_by else "trained by no such stage"
        way = f"run it: rlaif {name} --run {run.root} --set align_by=[ppo,dpo]"
        if config.stages is not None:
            way = f"add {name} to stages"
        raise StageError(
            f"this run has no {name.upper()}: it is {aligned}",
            where=str(run.root),
            remedy=", or ".join([*(f"export {other}" for other in others[:1]), way]),
        )
    stages = config.policies[name]
    if not stages:
        raise StageError(
            "this run has no SFT: it starts from the model as it is",
            where=str(run.root),
            remedy="export policy, or take the model itself",
        )
    records = {stage: finished(run, stage) for stage in stages}
    for stage, record in records.items():
        refuse_other_sft(run, stage, record)
    return tuple(run.file(stage, "adapter") for stage in stages), records[stages[-1]]


def refuse_other_sft(run: RunFolder, stage: str, record: StageRecord) -> None:
    """Raises StageError where the stage was made on another SFT adapter than the run has now."""
    stood_on = record.inputs.get("sft/adapter")
    if stood_on is not None and stood_on != path_hash(run.file("sft", "adapter")):
        raise StageError(
            f"{stage} was made on another SFT adapter than the one that is there now",
            where=str(run.file("sft", "adapter")),
            remedy=f"put that one back, or redo the stage: rlaif {stage} --run {run.root} --force",
        )


def source_of(base: ModelConfig) -> Source:
    """Where the base comes from. The embedded model is a GGUF file."""
    if base.source == "embedded" or base.source.endswith(".gguf"):
        return "gguf"
    return "folder" if Path(base.source).expanduser().is_dir() else "hub"


def base_of(config: RunConfig, record: StageRecord, device: str = "cpu") -> ModelConfig:
    """The run's base, to be loaded on the device in the dtype that the stage computed in, whatever this machine takes.

    Raises ModelError where the base is not there, or is not what it was.
    """
    from rlaif.lm.local.load import model_fingerprint, resolve

    resolve(config.model.source)
    for dtype in ("float32", "bfloat16"):
        base = config.model.model_copy(update={"dtype": dtype, "device": device})
        if model_fingerprint(base) == record.inputs.get("model"):
            return base
    raise ModelError(
        f"the base model is not the one that the {record.stage} stage stood on",
        where=f"model.source: {config.model.source}",
        remedy="put the former files back; adapters fit the weights that they were trained on, and no others",
    )
