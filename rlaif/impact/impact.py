"""`rlaif impact`: what another constitution would have made of the labels of a run or of a file of comparisons.

Only verdicts that the edit touches are judged, through the cache; all others are those of the old labels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlaif.config import RunConfig
from rlaif.constitution.diff import Difference, diff
from rlaif.constitution.load import check_constitution, load_constitution
from rlaif.impact.edits import edits
from rlaif.impact.measure import (
    Agreement,
    PairChange,
    PairGroup,
    PrincipleImpact,
    agreement,
    groups,
    most_changed,
    principle_impacts,
)
from rlaif.impact.relabel import Relabelled, VerdictCount, relabel
from rlaif.impact.subject import Subject
from rlaif.lm.protocol import Usage
from rlaif.progress import Progress
from rlaif.records import Constitution, record_seed, to_json


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
    """The whole answer; `source` is the run or the file, `groups` begins with all pairs, `left_out` names slices and
    tags with too few prompts, `agreement` is None where the file has no labels of its own."""

    source: str
    before: Side
    after: Side
    method: str
    principles: list[PrincipleImpact]
    cost: Cost
    groups: list[PairGroup]
    left_out: list[str]
    agreement: Agreement | None
    notes: list[str]
    examples: list[PairChange]

    def as_json(self) -> dict[str, Any]:
        return to_json(self)


def impact(subject: Subject, to: str, *, examples: int, progress: Progress) -> Impact:
    """What the constitution `to` (a file or a shipped name) changes in the labels, `examples` pairs to read.

    Raises ConstitutionError and ConfigError where the judge or the slices cannot work with the new constitution.
    """
    # 1. What is to be judged under.
    config, before = subject.config, subject.before
    after = load_constitution(to)
    check_constitution(after, method=config.judge.method, where=to)

    # 2. The labels under the new constitution.
    judge = subject.judge(after)
    paid, start = replace(subject.usage), time.monotonic()
    with progress.task("judging again", len(subject.labels), "pairs") as task:
        batch = config.label.batch_size * config.label.pairs
        pairs, tallies = relabel(subject.labels, before, judge, batch=batch, task=task)
    cost = _cost(tallies, paid, subject.usage, time.monotonic() - start)

    # 3. What that comes to.
    difference = diff(before, after)
    changed = edits(before, after, difference)
    draw, resamples = record_seed(config.seed, "impact", "bootstrap"), config.evaluate.bootstrap
    found, left_out = groups(pairs, seed=draw, resamples=resamples)
    return Impact(
        source=subject.source,
        before=_side(before),
        after=_side(after),
        method=config.judge.method,
        principles=principle_impacts(changed, tallies),
        cost=cost,
        groups=found,
        left_out=left_out,
        agreement=agreement(pairs, subject.given, seed=draw, resamples=resamples),
        notes=[*subject.notes, *_notes(config, difference, pairs, cost)],
        examples=most_changed(pairs, changed, examples),
    )


def _cost(tallies: Mapping[str, VerdictCount], paid: Usage, usage: Usage, seconds: float) -> Cost:
    """`paid`: what the model had been asked before the edit."""
    return Cost(
        needed=sum(tally.needed for tally in tallies.values()),
        reused=sum(tally.reused for tally in tallies.values()),
        judged=sum(tally.judged for tally in tallies.values()),
        calls=usage.calls - paid.calls,
        cached=usage.cached - paid.cached,
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
        notes.append("every answer of the judge was in the cache: the same texts were judged before")
    failed = sum(verdict.prob_a is None for pair in pairs for verdict in pair.after.verdicts)
    if failed:
        notes.append(f"{failed} verdicts are failures and say nothing; those that the edit left alone were not retried")
    return notes
