"""The labels that another constitution gives to the same comparisons, with every verdict that still holds reused.

A verdict holds while its principle's wording, the method, the judge and the comparison are the same. One that failed
holds too: asking again would mix the luck of a second try into the effect of the edit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlaif.judge.judge import Judge
from rlaif.lm.protocol import LanguageModel
from rlaif.progress import Task
from rlaif.records import PreferenceLabel, Principle, Verdict


@dataclass(frozen=True, slots=True)
class Relabelled:
    """One comparison under both constitutions."""

    before: PreferenceLabel
    after: PreferenceLabel


@dataclass(slots=True)
class Tally:
    """Verdicts of one principle that the new labels need: those that were there, and those judged now."""

    reused: int = 0
    judged: int = 0

    @property
    def needed(self) -> int:
        return self.reused + self.judged


class OnDemand:
    """A language model that is opened at its first use, so that an edit which asks nothing loads nothing."""

    def __init__(self, open_model: Callable[[], LanguageModel]) -> None:
        self._open_model = open_model
        self.opened: LanguageModel | None = None

    def __getattr__(self, name: str) -> Any:
        if self.opened is None:
            self.opened = self._open_model()
        return getattr(self.opened, name)


def relabel(
    labels: Sequence[PreferenceLabel], judge: Judge, *, batch: int, task: Task
) -> tuple[list[Relabelled], dict[str, Tally]]:
    """Every label beside its new one, in order, and per principle id of the new constitution what that took.

    `judge` judges under the new constitution; `batch` comparisons are judged together.
    """
    found: list[Relabelled] = []
    tallies = {principle.id: Tally() for principle in judge.constitution.principles}
    keys = {p.id: _key(p.id, p.hash, judge) for p in judge.constitution.principles}
    for start in range(0, len(labels), batch):
        part = labels[start : start + batch]
        plans = [_plan(label, judge, keys) for label in part]
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

    principles: list[Principle]
    stored: dict[str, list[Verdict]]

    @property
    def missing(self) -> list[Principle]:
        return [principle for principle in self.principles if principle.id not in self.stored]


def _plan(label: PreferenceLabel, judge: Judge, keys: Mapping[str, str]) -> _Plan:
    """What is needed and what is there. Principles with stored verdicts come first, in the order of these, so that
    principles which only changed places add up to the same sum to the last bit."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in label.verdicts:
        groups.setdefault(verdict.principle_id, []).append(verdict)
    known = {_key(name, group[0].principle_hash, judge): group for name, group in groups.items()}
    order = {name: index for index, name in enumerate(groups)}
    placed: list[tuple[int, Principle]] = []
    stored: dict[str, list[Verdict]] = {}
    for principle in judge.principles(label.comparison):
        group = known.get(keys[principle.id])
        if group is not None:
            stored[principle.id] = [replace(verdict, principle_id=principle.id) for verdict in group]
        placed.append((len(order) if group is None else order[group[0].principle_id], principle))
    return _Plan([principle for _, principle in sorted(placed, key=lambda item: item[0])], stored)


def _key(principle_id: str, principle_hash: str, judge: Judge) -> str:
    """What a stored verdict is found by: the wording, and for the random judge the id, which it draws from."""
    return f"{principle_id} {principle_hash}" if judge.config.method == "random" else principle_hash
