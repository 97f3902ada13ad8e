"""`rlaif impact`: what another constitution would have made of the labels of a run or of a file of comparisons.

Only verdicts that the edit touches are judged, through the cache; all others are those of the old labels.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rlaif.analysis.impact import downstream
from rlaif.analysis.impact.downstream import PolicyImpact, RevisionImpact, RewardImpact, Work
from rlaif.analysis.impact.fork import Edit, refuse_changed, retrained, revised
from rlaif.analysis.impact.measure import (
    Agreement,
    PairChange,
    PairGroup,
    PrincipleImpact,
    PromptMove,
    agreement,
    edits,
    groups,
    most_changed,
    principle_impacts,
    prompt_moves,
)
from rlaif.analysis.impact.relabel import Relabelled, VerdictCount, relabel
from rlaif.analysis.impact.subject import ImpactSubject
from rlaif.config import STAGES, RunConfig, StageName
from rlaif.constitution.diff import Difference, diff, in_words, reading
from rlaif.constitution.load import constitution_text, load_constitution, refuse_missing_contrast
from rlaif.core.errors import ConfigError
from rlaif.core.files import RunFolder
from rlaif.core.progress import Progress
from rlaif.core.records import Constitution, PreferenceLabel, record_seed, to_json
from rlaif.core.statistics import Draw
from rlaif.judge.judge import Judge
from rlaif.judge.methods.table import METHODS, find, in_use
from rlaif.lm.protocol import Usage

DownstreamPart = Literal["revisions", "reward", "policy"]
"""What can be done again beyond the labels."""


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
    tags with too few prompts, `agreement` is None where the file has no labels of its own. `unreached` says why this
    judge can change no label; "" where it can. `revisions`, `reward` and `policy` are None where they were not asked
    for."""

    source: str
    before: Side
    after: Side
    method: str
    principles: list[PrincipleImpact]
    cost: Cost
    groups: list[PairGroup]
    left_out: list[str]
    agreement: Agreement | None
    prompts: list[PromptMove]
    notes: list[str]
    examples: list[PairChange]
    unreached: str = ""
    revisions: RevisionImpact | None = None
    reward: RewardImpact | None = None
    policy: PolicyImpact | None = None

    def as_json(self) -> dict[str, Any]:
        return to_json(self)


def impact(
    subject: ImpactSubject, to: str, *, examples: int, progress: Progress, beyond: Collection[DownstreamPart] = ()
) -> Impact:
    """What the constitution `to` (a file or a shipped name) changes in the labels, and `beyond` them; `examples` pairs
    to read of each kind.

    Raises ConstitutionError and ConfigError where the judge or the slices cannot work with the new constitution, and
    StageError where the run has not the stages that `beyond` compares with.
    """
    # 1. What is to be judged under, and what is to be compared with.
    config, before = subject.config, subject.before
    after, text = load_constitution(to), constitution_text(to)
    refuse_missing_contrast(after, methods=in_use(config.judge), where=to)
    edit = None if subject.run is None else Edit(subject.run, config, after, text)
    _refuse_incomparable(edit, beyond)

    # 2. The labels under the new constitution.
    judge = subject.judge(after)
    paid, start = replace(subject.usage), time.monotonic()
    with progress.task("judging again", len(subject.labels), "pairs") as task:
        batch = config.label.batch_size * config.label.pairs
        pairs, tallies = relabel(subject.labels, before, judge, batch=batch, task=task)
    cost = _cost(tallies, paid, subject.usage, time.monotonic() - start)

    # 3. What that comes to.
    difference = diff(before, after, METHODS.values())
    changed = edits(before, after, difference)
    draw, resamples = record_seed(config.seed, "impact", "bootstrap"), config.evaluate.bootstrap
    found, left_out = groups(pairs, seed=draw, resamples=resamples)
    further = None if edit is None else _Beyond(subject, edit, [pair.after for pair in pairs], examples, progress)
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
        prompts=prompt_moves(pairs),
        notes=[*subject.notes, *_notes(config, difference, pairs, cost)],
        examples=most_changed(pairs, changed, examples, config.judge.weights),
        unreached=_unreached(difference, config, judge.shown),
        revisions=further.revisions() if further is not None and "revisions" in beyond else None,
        reward=further.reward() if further is not None and "reward" in beyond else None,
        policy=further.policy() if further is not None and "policy" in beyond else None,
    )


NEEDED: dict[DownstreamPart, tuple[StageName, ...]] = {
    "revisions": ("revise",),
    "reward": ("sft", "reward"),
    "policy": ("sft", "ppo", "evaluate"),
}
"""The stages of the run that each part is compared with."""


def _refuse_incomparable(edit: Edit | None, beyond: Collection[DownstreamPart]) -> None:
    """Raises before anything is judged where `beyond` has nothing to compare with, or nothing to find out."""
    if beyond and edit is None:
        raise ConfigError("a file of comparisons has no revisions and no training", remedy="give a run with --run")
    if edit is None:
        return
    ppo, answers = edit.config.ppo, edit.config.label.answers
    if answers != "policy" and {"reward", "policy"} & set(beyond):
        raise ConfigError(
            f"label.answers is {answers}, and pairs by contrast cannot be judged again: a reward model on the others "
            "alone is not to be compared with the run's",
            where=str(edit.run.config_path),
            remedy="leave --reward and --policy out",
        )
    if "policy" in beyond and "ppo" not in edit.config.align_by:
        raise ConfigError(
            "the policy is compared after PPO, and the run has none",
            where=str(edit.run.config_path),
            remedy="leave --policy out, or have PPO too: align_by: [ppo, dpo]",
        )
    if "policy" in beyond and not (ppo.scored_by("model") or ppo.scored_by("judge")):
        raise ConfigError(
            f"ppo.reward is {', '.join(p.source for p in ppo.reward)}, which no constitution changes",
            where=str(edit.run.config_path),
            remedy="leave --policy out",
        )
    names = {stage for part in beyond for stage in NEEDED[part] if stage != "sft" or edit.config.start}
    if "policy" in beyond and ppo.scored_by("model"):
        names.add("reward")
    refuse_changed(edit, [stage for stage in STAGES if stage in names])


@dataclass(frozen=True, slots=True)
class _Beyond:
    """The stages of the run done again under the new constitution, and what came of them."""

    subject: ImpactSubject
    edit: Edit
    labels: list[PreferenceLabel]
    examples: int
    progress: Progress

    def revisions(self) -> RevisionImpact:
        self.subject.close()  # a stage needs the memory that the judge takes
        fork, record = revised(self.edit, self.progress)
        work = downstream.work_of(fork, [record])
        return downstream.revision_impact(self.edit.run, fork, self._judges(), work, self._draw(), self.examples)

    def reward(self) -> RewardImpact:
        fork, work = self._retrained(("reward",))
        return downstream.reward_impact(self.edit.config, self.edit.run, fork, work, self._draw(), self.examples)

    def policy(self) -> PolicyImpact:
        learnt: tuple[StageName, ...] = ("reward",) if self.edit.config.ppo.scored_by("model") else ()
        fork, work = self._retrained((*learnt, "ppo", "evaluate"))
        return downstream.policy_impact(self.edit.run, fork, self._judges(), work, self._draw())

    def _retrained(self, names: tuple[StageName, ...]) -> tuple[RunFolder, Work]:
        self.subject.close()
        fork, records = retrained(self.edit, self.labels, names, self.progress)
        return fork, downstream.work_of(fork, records)

    def _judges(self) -> dict[str, Judge]:
        return {"new": self.subject.judge(self.edit.after), "old": self.subject.judge(self.subject.before)}

    def _draw(self) -> Draw:
        config = self.edit.config
        return Draw(record_seed(config.seed, "impact", "bootstrap"), config.evaluate.bootstrap)


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


def _unreached(difference: Difference, config: RunConfig, shown: Collection[str]) -> str:
    """Why the edit can change no label of a judge that is shown these fields; "" where it can."""
    if difference.reaches(shown):
        return ""
    edited = list(dict.fromkeys(field.name for change in difference.changes for field in change.fields))
    if not edited:
        return "No label can change: the principles are the same."
    changed = f"No label can change: the edit changes {in_words(edited)} alone"
    readers = [m.name for m in METHODS.values() if m.asks_model and set(edited) & set(m.shown)]
    names = f"judge.method {' + '.join(m.name for m in in_use(config.judge))}"
    if not find(config.judge.method).asks_model:
        return f"{changed}, and {names} reads nothing."
    if not readers:
        return f"{changed}, which no judge reads."
    remedy = f"Edit what it reads, or choose a method that reads the edit: {', '.join(readers)}."
    return f"{changed}, and {names} reads {reading(shown)}. {remedy}"


def _notes(config: RunConfig, difference: Difference, pairs: Sequence[Relabelled], cost: Cost) -> list[str]:
    """What a reader would otherwise take the numbers for."""
    notes = []
    redrawn = any(
        change.kind != "changed" or any(field.name == "weight" for field in change.fields)
        for change in difference.changes
    )
    if config.judge.principles != "all" and redrawn:
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
    if cost.judged and not cost.calls and find(config.judge.method).asks_model:
        notes.append("every answer of the judge was in the cache: the same texts were judged before")
    failed = sum(verdict.prob_a is None for pair in pairs for verdict in pair.after.verdicts)
    if failed:
        notes.append(f"{failed} verdicts are failures and say nothing; those that the edit left alone were not retried")
    return notes
