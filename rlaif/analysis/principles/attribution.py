"""`rlaif principles`: what each principle of a run's constitution does to its labels.

Stored verdicts cost nothing. Where the run judged each pair under one principle or some, a sample of pairs can be
judged under all that apply, through the run's cache; what it finds then is about labels as if the run had done so.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.analysis.impact.relabel import relabel
from rlaif.analysis.judged_run import JudgedRun, judge_on_demand, read_judged_run
from rlaif.analysis.principles.gold import Gold, GoldFacts, is_scorer, read_gold
from rlaif.analysis.principles.matrix import (
    CLEAR,
    MIN_PAIRS,
    REDUNDANT,
    Cluster,
    Matrix,
    Twosome,
    clusters,
    matrix,
    most_opposed,
)
from rlaif.analysis.principles.measure import Influence, Overview, influences, overview
from rlaif.analysis.principles.negation import Negation, negations
from rlaif.analysis.principles.pairs import spread, voted_pairs
from rlaif.config import RunConfig
from rlaif.core.errors import ConfigError
from rlaif.core.files import RunFolder
from rlaif.core.progress import Progress
from rlaif.core.records import PreferenceLabel, record_seed, to_json
from rlaif.core.statistics import Draw
from rlaif.judge.gate import calibration_of
from rlaif.judge.judge import Judge, usage_of
from rlaif.judge.methods.table import find
from rlaif.lm.open import OpenJudge, open_judge
from rlaif.lm.protocol import LanguageModel

CONFLICTS = 10


@dataclass(frozen=True, slots=True)
class VerdictCost:
    """Of the pairs' verdicts `stored` ones were read and `judged` ones made now. The model took `calls`, for the
    negation test too, and `cached` answers were paid for before."""

    stored: int
    judged: int
    calls: int
    cached: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Attribution:
    """The whole answer. `sampled`: the pairs were drawn and judged under all principles that apply, and labels are as
    if judge.principles were all; otherwise they are the run's own. `drawn`
    is judge.principles of the run. `negations` is None where it was not asked for."""

    run: str
    constitution: str
    version: str
    method: str
    drawn: str
    sampled: bool
    overview: Overview
    principles: list[Influence]
    matrix: Matrix
    clusters: list[Cluster]
    opposed: list[Twosome]
    gold: GoldFacts | None
    negations: list[Negation] | None
    asked: VerdictCost
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        limits = {"clear": CLEAR, "redundant": REDUNDANT, "min_pairs": MIN_PAIRS}
        return {**to_json(self), "limits": limits}


def attribution(
    run: RunFolder,
    *,
    pairs: int = 0,
    negate: int = 0,
    gold: str | None = None,
    progress: Progress,
    open_judge: OpenJudge = open_judge,
) -> Attribution:
    """What each principle does to the labels of the run.

    With `pairs` that many are drawn and judged under all principles that apply to them, else all of the run are taken
    with the verdicts that are there. With `negate` each principle is turned round on that many pairs. `gold` is a
    file, or "harm". Raises what `read_judged_run` and `read_gold` do, and ConfigError where the random judge would be
    asked for a negation.
    """
    # 1. What was judged.
    judged = read_judged_run(run, "principles")
    config, constitution = judged.config, judged.constitution
    asks = find(config.judge.method).asks_model
    if negate and not asks:
        raise ConfigError(
            f"the {config.judge.method} judge reads no principle, so none can be reversed",
            where="judge.method",
            remedy="leave --negate out",
        )
    order = spread(judged.labels, config.seed)
    chosen = order[:pairs] if pairs else judged.labels
    known = Gold(None, {}) if gold is None else read_gold(gold, chosen if is_scorer(gold) else judged.labels)

    # 2. What has to be judged for it.
    models = judge_on_demand(judged, open_judge)
    start = time.monotonic()
    try:
        judge = _judge(judged, models)
        labels, stored, made = _under_all(chosen, judged, judge, progress) if pairs else (chosen, _verdicts(chosen), 0)
        draw = Draw(record_seed(config.seed, "principles", "bootstrap"), config.evaluate.bootstrap)
        turned = _negations(order, judge, negate, draw, progress) if negate else None
    finally:
        usage = usage_of(models)
        for model in models:
            model.close()
    asked = VerdictCost(stored, made, usage.calls, usage.cached, round(time.monotonic() - start, 3))

    # 3. What that comes to.
    settings = config.judge
    voted = voted_pairs(labels, constitution, judge.settling)
    table = matrix(voted)
    whole = overview(voted, known.prob_a, draw)
    with progress.task("measuring", len(constitution.principles), "principles") as task:
        found = []
        for row in influences(voted, constitution.principles, known.prob_a, draw):
            found.append(row)
            task.advance()
    return Attribution(
        run=str(run.root),
        constitution=constitution.name,
        version=constitution.version,
        method=settings.method,
        drawn=settings.principles,
        sampled=bool(pairs),
        overview=whole,
        principles=found,
        matrix=table,
        clusters=clusters(table),
        opposed=most_opposed(table, CONFLICTS),
        gold=known.facts,
        negations=turned,
        asked=asked,
        notes=_notes(config, whole, found, known, pairs, len(judged.labels)),
    )


def _judge(judged: JudgedRun, models: Sequence[LanguageModel]) -> Judge:
    """The run's judge, which judges every pair under all principles that apply to it."""
    config = judged.config
    return Judge(
        config.judge.model_copy(update={"principles": "all"}),
        judged.constitution,
        models=models,
        seed=config.seed,
        templates=judged.run.templates_path,
        prompts=config.prompts,
        calibration=calibration_of(config.judge, judged.run),
    )


def _under_all(
    chosen: Sequence[PreferenceLabel], judged: JudgedRun, judge: Judge, progress: Progress
) -> tuple[list[PreferenceLabel], int, int]:
    """The labels of the chosen pairs under all principles, and how many of their verdicts were there and were made."""
    batch = judged.config.label.batch_size
    with progress.task("judging under all", len(chosen), "pairs") as task:
        found, tallies = relabel(chosen, judged.constitution, judge, batch=batch, task=task)
    stored, made = (sum(getattr(tally, name) for tally in tallies.values()) for name in ("reused", "judged"))
    return [pair.after for pair in found], stored, made


def _verdicts(labels: Sequence[PreferenceLabel]) -> int:
    return sum(len(label.verdicts) for label in labels)


def _negations(
    order: Sequence[PreferenceLabel], judge: Judge, size: int, draw: Draw, progress: Progress
) -> list[Negation]:
    with progress.task("turning round", len(judge.constitution.principles), "principles") as task:
        return negations(order, judge, size, draw, task)


def _notes(
    config: RunConfig, whole: Overview, found: Sequence[Influence], gold: Gold, pairs: int, there: int
) -> list[str]:
    """What a reader would otherwise take the numbers for."""
    judge, notes = config.judge, []
    if pairs and judge.principles != "all":
        notes.append(
            f"the labels here are those of judge.principles: all; the run's own differ, for it has {judge.principles}"
        )
    elif judge.principles != "all":
        notes.append(
            f"judge.principles is {judge.principles}, so only {whole.several:,} of {whole.pairs:,} pairs have votes of "
            "several principles; influence, agreement and conflict are measured on those. --pairs 150 judges 150 pairs "
            "under all principles that apply to them"
        )
    if pairs > there:
        notes.append(f"there are only {there:,} pairs")
    if not find(judge.method).asks_model:
        notes.append(f"the judge is {judge.method}: these are the numbers of a coin")
    if judge.tier_margin is not None:
        notes.append(
            f"judge.tier_margin is {judge.tier_margin:g}: a principle decides nothing where one of a higher tier has "
            "decided"
        )
    silent = [row.id for row in found if not row.pairs]
    if silent:
        notes.append(f"never asked on these pairs: {', '.join(silent)} (no weight, no slice, or not drawn)")
    failures = sum((Counter(row.failures) for row in found), Counter[str]()).total()
    if failures:
        notes.append(f"{failures:,} votes are failures and say nothing")
    notes += [f"gold: {note}" for note in gold.notes]
    if gold.facts is not None and gold.facts.unmatched:
        notes.append(f"gold: {gold.facts.unmatched:,} of {gold.facts.rows:,} rows are about no pair of the run")
    if gold.facts is not None and whole.gold is None:
        notes.append("gold says nothing about the pairs measured here; a larger --pairs may draw some")
    return notes
