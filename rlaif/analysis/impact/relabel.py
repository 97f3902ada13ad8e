"""The labels that another constitution gives to the same comparisons, with every verdict that still holds reused.

A verdict holds while what the method shows of its principle, the method, the judge and the comparison are the same.
One that failed holds too: asking again would mix the luck of a second try into the effect of the edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rlaif.constitution.diff import shown_hash
from rlaif.core.progress import Task
from rlaif.core.records import Constitution, PreferenceLabel, Principle, Verdict
from rlaif.judge.judge import Judge


@dataclass(frozen=True, slots=True)
class Relabelled:
    """One comparison under both constitutions."""

    before: PreferenceLabel
    after: PreferenceLabel


@dataclass(slots=True)
class VerdictCount:
    """Verdicts of one principle that the new labels need: those that were there, and those judged now."""

    reused: int = 0
    judged: int = 0

    @property
    def needed(self) -> int:
        return self.reused + self.judged


def relabel(
    labels: Sequence[PreferenceLabel], before: Constitution, judge: Judge, *, batch: int, task: Task
) -> tuple[list[Relabelled], dict[str, VerdictCount]]:
    """Every label beside its new one, in order, and per principle id of the new constitution what that took.

    The labels were made under `before`, and `judge` judges under the new one; `batch` comparisons are judged together.
    """
    found: list[Relabelled] = []
    after = judge.constitution.principles
    tallies = {principle.id: VerdictCount() for principle in after}
    keys = _keys((*before.principles, *after), judge)
    wanted = {principle.id: _Wanted(principle.hash, keys[principle.id, principle.hash]) for principle in after}
    for start in range(0, len(labels), batch):
        part = labels[start : start + batch]
        plans = [_plan(label, judge, keys, wanted) for label in part]
        asked = [(label.comparison, plan.missing) for label, plan in zip(part, plans, strict=True) if plan.missing]
        judged: list[PreferenceLabel] = []
        if asked:  # even an empty question would open the model
            judged = judge.label_under([comparison for comparison, _ in asked], [missing for _, missing in asked])
        fresh = {label.comparison.id: label.verdicts for label in judged}
        for label, plan in zip(part, plans, strict=True):
            verdicts: list[Verdict] = []
            for principle in plan.principles:
                tally = tallies[principle.id]
                if principle.id in plan.stored:
                    tally.reused += len(plan.stored[principle.id])
                    verdicts += plan.stored[principle.id]
                else:
                    made = [v for v in fresh[label.comparison.id] if v.principle_id == principle.id]
                    tally.judged += len(made)
                    verdicts += made
            found.append(Relabelled(label, judge.settle(label.comparison, tuple(verdicts))))
        task.advance(len(part))
    return found, tallies


@dataclass(frozen=True, slots=True)
class _Plan:
    """The principles that apply to a comparison now, and by id the stored verdicts of those that have any."""

    principles: tuple[Principle, ...]
    stored: dict[str, list[Verdict]]

    @property
    def missing(self) -> list[Principle]:
        return [principle for principle in self.principles if principle.id not in self.stored]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a principle of the new constitution is known by: its hash, and what its verdicts are found by."""

    hash: str
    key: str


def _plan(
    label: PreferenceLabel, judge: Judge, keys: Mapping[tuple[str, str], str], wanted: Mapping[str, _Wanted]
) -> _Plan:
    """What is needed and what is there."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in label.verdicts:
        groups.setdefault(verdict.principle_id, []).append(verdict)
    key_of = {name: keys.get((name, group[0].principle_hash)) for name, group in groups.items()}
    known = {key: name for name, key in key_of.items()}
    principles = judge.principles(label.comparison)
    stored: dict[str, list[Verdict]] = {}
    for principle in principles:
        want = wanted[principle.id]
        name = principle.id if key_of.get(principle.id) == want.key else known.get(want.key)
        if name is not None:
            stored[principle.id] = [_under(principle.id, want.hash, verdict) for verdict in groups[name]]
    return _Plan(principles, stored)


def _under(id: str, hash: str, verdict: Verdict) -> Verdict:
    """The verdict as that of the principle of this id and hash; itself if it is that already."""
    if (verdict.principle_id, verdict.principle_hash) == (id, hash):
        return verdict
    return replace(verdict, principle_id=id, principle_hash=hash, id="")


def _keys(principles: Sequence[Principle], judge: Judge) -> dict[tuple[str, str], str]:
    """(id, hash) of each principle -> what its verdicts are found by: what the methods show of it."""
    return {(p.id, p.hash): shown_hash(p, judge.shown) for p in principles}
