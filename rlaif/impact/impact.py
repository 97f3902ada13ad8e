"""`rlaif impact`: what another constitution would have made of a run's labels, without changing the run.

Only verdicts that the edit touches are judged, through the run's own cache; all else is read from label/labels.jsonl.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif import ledger, pipeline, stages
from rlaif.config import RunConfig, load
from rlaif.constitution.diff import Difference, diff
from rlaif.constitution.load import check_constitution, load_constitution
from rlaif.errors import DataError, StageError
from rlaif.impact.edits import edits
from rlaif.impact.measure import PairChange, PairGroup, PrincipleImpact, groups, most_changed, principle_impacts
from rlaif.impact.relabel import OnDemand, Relabelled, VerdictCount, relabel
from rlaif.judge.judge import Judge
from rlaif.lm import open as open_model
from rlaif.lm.protocol import LanguageModel, Usage
from rlaif.progress import Progress
from rlaif.records import Constitution, PreferenceLabel, content_id, record_seed, to_json
from rlaif.store import JsonlFile, RunFolder

OpenJudge = Callable[[RunConfig, Path], LanguageModel]
"""Opens the judge of a config with a cache folder."""


@dataclass(frozen=True, slots=True)
class Side:
    """Which constitution stands on a side."""

    name: str
    version: str
    hash: str
    principles: int


@dataclass(frozen=True, slots=True)
class Cost:
    """`needed` verdicts = `reused` + `judged`; judging took `calls` of the model, `cached` more were paid before."""

    needed: int
    reused: int
    judged: int
    calls: int
    cached: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Impact:
    """The whole answer; `groups` begins with all pairs, `left_out` names slices and tags with too few prompts."""

    run: str
    before: Side
    after: Side
    method: str
    principles: list[PrincipleImpact]
    cost: Cost
    groups: list[PairGroup]
    left_out: list[str]
    notes: list[str]
    examples: list[PairChange]

    def as_json(self) -> dict[str, Any]:
        return to_json(self)


def impact(
    run: RunFolder, to: str, *, examples: int, progress: Progress, open_judge: OpenJudge | None = None
) -> Impact:
    """What the constitution `to` (a file or a shipped name) changes in the run's labels, `examples` pairs to read.

    Raises StageError where the label stage is not finished, RunFolderError or DataError where its labels were made
    in another way than the run's config says, ConstitutionError and ConfigError where the judge or the slices cannot
    work with the new constitution.
    """
    # 1. What was judged, under what, and what is to be judged under.
    config = load(run.config_path)
    before = _constitution_of_labels(run, config)
    labels = _labels(run, config)
    after = load_constitution(to)
    check_constitution(after, method=config.judge.method, where=to)

    # 2. The labels under the new constitution.
    model = OnDemand(lambda: _open(run, config, open_judge or _judge_of_run))
    templates = run.templates_path
    judge = Judge(config.judge, after, model=model, seed=config.seed, templates=templates, prompts=config.prompts)
    start = time.monotonic()
    try:
        with progress.task("judging again", len(labels), "pairs") as task:
            batch = config.label.batch_size * config.label.pairs
            pairs, tallies = relabel(labels, before, judge, batch=batch, task=task)
    finally:
        if model.opened is not None:
            model.opened.close()
    cost = _cost(tallies, model.opened, time.monotonic() - start)

    # 3. What that comes to.
    difference = diff(before, after)
    changed = edits(before, after, difference)
    draw = record_seed(config.seed, "impact", "bootstrap")
    found, left_out = groups(pairs, seed=draw, resamples=config.evaluate.bootstrap)
    return Impact(
        run=str(run.root),
        before=_side(before),
        after=_side(after),
        method=config.judge.method,
        principles=principle_impacts(changed, tallies),
        cost=cost,
        groups=found,
        left_out=left_out,
        notes=_notes(config, difference, pairs, cost),
        examples=most_changed(pairs, changed, examples),
    )


def _constitution_of_labels(run: RunFolder, config: RunConfig) -> Constitution:
    """The run's constitution, after the check that the labels were made under it and under this config."""
    record = run.record("label")
    if record is None:
        raise StageError(
            "impact needs what the label stage writes, and that is not finished",
            where=str(run.root),
            remedy=f"run it first: rlaif label --run {run.root}",
        )
    given = pipeline.gather_kept(config, run)
    settings = stages.settings(config, "label", record.config.get("limit"))
    inputs = {"constitution": given.constitution.hash, "templates": content_id(given.templates)}
    ledger.refuse_changed(run, "label", settings, inputs)
    return given.constitution


def _labels(run: RunFolder, config: RunConfig) -> list[PreferenceLabel]:
    file = JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel)
    labels = file.read()
    other = {verdict.method for label in labels for verdict in label.verdicts} - {config.judge.method}
    if not labels:
        problem = "holds no label"
    elif other:
        problem = (
            f"holds verdicts of the method {', '.join(sorted(other))}, and the run judges by {config.judge.method}"
        )
    else:
        return labels
    remedy = f"make the labels again: rlaif label --run {run.root} --force"
    raise DataError(problem, where=str(file.path), remedy=remedy)


def _open(run: RunFolder, config: RunConfig, open_judge: OpenJudge) -> LanguageModel:
    """The judge, after the check that it still is the one that made the labels."""
    ledger.refuse_changed(run, "label", None, {"judge model": pipeline.judge_model_hash(config)})
    return open_judge(config, run.cache_path)


def _judge_of_run(config: RunConfig, cache: Path) -> LanguageModel:
    return open_model.open_judge(config.judge, config.model, cache)


def _cost(tallies: Mapping[str, VerdictCount], opened: LanguageModel | None, seconds: float) -> Cost:
    usage = Usage() if opened is None else opened.usage
    return Cost(
        needed=sum(tally.needed for tally in tallies.values()),
        reused=sum(tally.reused for tally in tallies.values()),
        judged=sum(tally.judged for tally in tallies.values()),
        calls=usage.calls,
        cached=usage.cached,
        seconds=round(seconds, 3),
    )


def _side(constitution: Constitution) -> Side:
    return Side(constitution.name, constitution.version, constitution.hash, len(constitution.principles))


def _notes(config: RunConfig, difference: Difference, pairs: Sequence[Relabelled], cost: Cost) -> list[str]:
    """What a reader would otherwise take the numbers for."""
    notes = []
    if config.judge.principles != "all":
        notes.append(
            f"judge.principles is {config.judge.principles}: each {config.judge.draw_per} draws by weight, so another "
            "weight, id or number of principles changes some draws, and the verdicts with them"
        )
    if difference.reordered:
        notes.append("the principles stand in another order; that changes no label")
    if config.judge.tier_margin is None and any(
        field.name == "priority" for change in difference.changes for field in change.fields
    ):
        notes.append("priorities changed, and without judge.tier_margin they change no label")
    if cost.judged and not cost.calls and config.judge.method != "random":
        notes.append("every answer of the judge was in the run's cache: the same texts were judged before")
    failed = sum(verdict.prob_a is None for pair in pairs for verdict in pair.after.verdicts)
    if failed:
        notes.append(f"{failed} verdicts are failures and say nothing; those that the edit left alone were not retried")
    return notes
