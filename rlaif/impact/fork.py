"""Stages of a run done again under another constitution, in run folders of their own: RUN/impact/NAME-HASH/...

Such a fork is a run like any other (`rlaif show`, `rlaif report`), goes on where it was interrupted, and shares the
run's cache: whatever the edit does not touch is not computed again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlaif import pipeline
from rlaif.config import RunConfig, StageName
from rlaif.constitution.load import constitution_text
from rlaif.errors import ConfigError, StageError
from rlaif.progress import Progress
from rlaif.records import Constitution, PreferenceLabel, Response, StageRecord, content_id
from rlaif.store import JsonlFile, RunFolder, disk_errors, write_atomic
from rlaif.yaml_io import dump_yaml


def revised(
    run: RunFolder, config: RunConfig, after: Constitution, to: str, progress: Progress
) -> tuple[RunFolder, StageRecord]:
    """The fork whose `revise` stage was done under `after` (the constitution in `to`), and the record of that stage."""
    record = finished(run, "revise")
    fork = _folder(run, after, record) / "revisions"
    return RunFolder(fork), _go_on(run, config, RunFolder(fork), after, to, ("revise",), record, progress)[-1]


def retrained(
    run: RunFolder,
    config: RunConfig,
    after: Constitution,
    to: str,
    labels: Sequence[PreferenceLabel],
    names: Sequence[StageName],
    progress: Progress,
) -> tuple[RunFolder, list[StageRecord]]:
    """The fork that begins with the run's own SFT policy and with `labels`, after the stages `names`, and their
    records."""
    record = finished(run, "label")
    fork = RunFolder(_folder(run, after, record) / "training")
    # The fork's config comes first: a folder without one is nobody's run and would be refused.
    write_atomic(fork.config_path, _config_text(config, fork))
    _link(run.root / "sft", fork.root / "sft")
    if fork.record("label") is None:
        fork.clear("label")
        answers = JsonlFile(run.file("label", "responses.jsonl"), Response)
        JsonlFile(fork.file("label", "responses.jsonl"), Response).append(answers)
        JsonlFile(fork.file("label", "labels.jsonl"), PreferenceLabel).append(labels)
        fork.finish(replace(record, inputs={**record.inputs, "constitution": after.hash}))
    return fork, _go_on(run, config, fork, after, to, names, record, progress)


def finished(run: RunFolder, stage: StageName) -> StageRecord:
    """The record of the stage; raises StageError if there is none."""
    record = run.record(stage)
    if record is None:
        raise StageError(
            f"there is nothing to compare with: the run's {stage} stage is not finished",
            where=str(run.root),
            remedy=f"run it first: rlaif {stage} --run {run.root}",
        )
    return record


def _folder(run: RunFolder, after: Constitution, record: StageRecord) -> Path:
    """Another one for another constitution, and for a run whose stage was redone with something else."""
    made_from = content_id(after.hash, record.config, record.inputs)
    return run.root / "impact" / f"{after.name}-{made_from[:8]}"


def _go_on(
    run: RunFolder,
    config: RunConfig,
    fork: RunFolder,
    after: Constitution,
    to: str,
    names: Sequence[StageName],
    record: StageRecord,
    progress: Progress,
) -> list[StageRecord]:
    given = pipeline.gather_kept(config, run)
    materials = replace(given, constitution=after, constitution_yaml=constitution_text(to))
    write_atomic(fork.config_path, _config_text(config, fork))
    _link(run.cache_path, fork.cache_path)
    limit = record.config.get("limit")
    progress.say(f"under {after.name}, in {fork.root}:")
    settled = _forked(config, fork)
    pipeline.run_stages(settled, fork.root, names, mode="resume", limit=limit, progress=progress, materials=materials)
    return [finished(fork, name) for name in names]


def _forked(config: RunConfig, fork: RunFolder) -> RunConfig:
    return config.model_copy(update={"constitution": str(fork.constitution_path.absolute())})


def _config_text(config: RunConfig, fork: RunFolder) -> str:
    return dump_yaml(_forked(config, fork).model_dump(mode="json"))


def _link(target: Path, place: Path) -> None:
    """A relative link, so that the run can be moved as a whole."""
    with disk_errors(place):
        target.mkdir(parents=True, exist_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            raise ConfigError(f"{place} is in the way", remedy=f"remove {place.parent}")
        place.symlink_to(os.path.relpath(target, place.parent), target_is_directory=True)
