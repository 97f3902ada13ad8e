"""Stages of a run done again under another constitution, in run folders of their own: RUN/impact/NAME-HASH/...

A fork holds copies of what it begins with, so that nothing done in it reaches the run, and shares only the run's cache:
what the edit does not touch is not computed again. It goes on where it was interrupted, and can be looked at like any
run (`rlaif show`, `rlaif report`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rlaif.config import RunConfig, StageName
from rlaif.core.errors import ConfigError, StageError
from rlaif.core.files import JsonlFile, RunFolder, disk_errors, write_atomic
from rlaif.core.progress import Progress
from rlaif.core.records import Constitution, PreferenceLabel, Response, StageRecord, content_id
from rlaif.core.yaml import dump_yaml
from rlaif.run import ledger, pipeline
from rlaif.stages import table as stages
from rlaif.stages.label import label_counts

AGAIN: tuple[StageName, ...] = ("reward", "ppo", "evaluate")
"""What may be done again after the labels; a fork is made for their settings, whichever of them are asked for."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A run, its config, and the constitution that its stages are done again under, with the text of that file."""

    run: RunFolder
    config: RunConfig
    after: Constitution
    text: str

    def folder(self, *made_from: object) -> Path:
        """Another one for another constitution or anything else that the fork is made from."""
        key = content_id(self.after.hash, *made_from)
        return self.run.root / "impact" / f"{self.after.name}-{key[:8]}"


def refuse_changed(edit: Edit, names: Sequence[StageName]) -> None:
    """Raises unless every named stage of the run is finished and was made under the config and inputs that the run has
    now: else the difference would be that of two configs, not of two constitutions."""
    given = pipeline.gather_kept(edit.config, edit.run)
    for name in names:
        record = finished(edit.run, name)
        inputs = stages.own_inputs(edit.config, name, edit.run)
        if "judge" in stages.shared(edit.config, name):
            inputs |= {"constitution": given.constitution.hash, "templates": content_id(given.templates)}
        settings = stages.settings(edit.config, name, record.config.get("limit"))
        ledger.refuse_changed(edit.run, name, settings, inputs)


def revised(edit: Edit, progress: Progress) -> tuple[RunFolder, StageRecord]:
    """The fork whose `revise` stage was done under the new constitution, and the record of that stage."""
    record = finished(edit.run, "revise")
    fork = RunFolder(edit.folder(record.config, record.inputs) / "revisions")
    with fork.lock():
        _prepare(edit, fork)
        _bring_card(edit, fork)
    return fork, _go_on(edit, fork, ("revise",), record.config.get("limit"), progress)[-1]


def retrained(
    edit: Edit, labels: Sequence[PreferenceLabel], names: Sequence[StageName], progress: Progress
) -> tuple[RunFolder, list[StageRecord]]:
    """The fork that begins with the run's own SFT policy and with `labels`, after the stages `names`, and their
    records."""
    record = finished(edit.run, "label")
    limit = record.config.get("limit")
    said = [(label.comparison.id, label.prob_a) for label in labels]
    settings = [stages.settings(edit.config, name, limit) for name in AGAIN]
    fork = RunFolder(edit.folder(record.config, record.inputs, said, settings) / "training")
    with fork.lock():
        _prepare(edit, fork)
        _bring_card(edit, fork)
        if fork.record("label") is None:
            _begin(edit, fork, labels, record)
    return fork, _go_on(edit, fork, names, limit, progress)


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


def _prepare(edit: Edit, fork: RunFolder) -> None:
    """The config comes first: a folder without one is nobody's run and would be refused."""
    write_atomic(fork.config_path, dump_yaml(_settled(edit, fork).model_dump(mode="json")))
    target, place = edit.run.cache_path.resolve(), fork.cache_path
    with disk_errors(place):
        target.mkdir(parents=True, exist_ok=True)
        if place.resolve() == target:
            return
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            raise ConfigError(f"{place} is in the way", remedy=f"remove {fork.root}")
        # relative, so that the run can be moved as a whole
        place.symlink_to(os.path.relpath(target, place.parent.resolve()), target_is_directory=True)


def _bring_card(edit: Edit, fork: RunFolder) -> None:
    """Copies the judge's card, whose map calibrates the fork as it does the run; its figures are of the run."""
    record = edit.run.record("card")
    if record is not None and fork.record("card") is None:
        fork.clear("card")
        with disk_errors(fork.root):
            shutil.copytree(edit.run.root / "card", fork.root / "card")
        fork.finish(replace(record, inputs={**record.inputs, "constitution": edit.after.hash}))


def _begin(edit: Edit, fork: RunFolder, labels: Sequence[PreferenceLabel], record: StageRecord) -> None:
    """Copies the SFT policy and the answers, writes the new labels, and marks both stages as finished."""
    fork.clear("sft")
    fork.clear("label")
    with disk_errors(fork.root):
        for stage in edit.config.start:
            shutil.copytree(edit.run.root / stage, fork.root / stage)
    answers = JsonlFile(edit.run.file("label", "responses.jsonl"), Response)
    JsonlFile(fork.file("label", "responses.jsonl"), Response).append(answers)
    JsonlFile(fork.file("label", "labels.jsonl"), PreferenceLabel).append(labels)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    fork.finish(
        replace(
            record,
            inputs={**record.inputs, "constitution": edit.after.hash},
            counts=label_counts(labels),
            seconds=0.0,
            started=now,
            finished=now,
            sessions=1,
        )
    )


def _go_on(
    edit: Edit, fork: RunFolder, names: Sequence[StageName], limit: int | None, progress: Progress
) -> list[StageRecord]:
    given = pipeline.gather_kept(edit.config, edit.run)
    materials = replace(given, constitution=edit.after, constitution_yaml=edit.text)
    progress.say(f"under {edit.after.name}, in {fork.root}:")
    config = _settled(edit, fork)
    pipeline.run_stages(config, fork.root, names, mode="resume", limit=limit, progress=progress, materials=materials)
    return [finished(fork, name) for name in names]


def _settled(edit: Edit, fork: RunFolder) -> RunConfig:
    """The config of a fork, in which PPO alone is done again."""
    return edit.config.model_copy(update={"constitution": str(fork.constitution_path.absolute()), "align_by": ["ppo"]})
