"""What `rlaif judge compare` finds: the judges on both parts of the gold, the choice, and how far they agree."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rlaif.core.records import content_id, to_json
from rlaif.core.statistics import Estimate
from rlaif.judge.card.records import Accuracy, Calibration, OrderBias
from rlaif.judge.compare.agreement import JudgeAgreement

FORMAT = 1
PANEL = "mean of all"
LEAST_MATCHED = 30
"""Prompts with a length-matched pair that a choice on such pairs takes; a share of fewer is 18 points from the truth or
more one time in twenty."""
MOST_WITHOUT_LABEL = 0.1
"""A judge without a label on more than this share of the choosing pairs is not chosen, however good the others are."""
Criterion = Literal["length-matched accuracy", "accuracy"]


@dataclass(frozen=True, slots=True)
class PartFigures:
    """A judge on one part of gold: `labelled` of `pairs` have a label, the others none for the reason in `failures`.
    `best_of`: see rlaif.judge.compare.measure."""

    pairs: int
    prompts: int
    labelled: int
    failures: dict[str, int]
    accuracy: Accuracy
    length_matched: Accuracy
    calibration: Calibration | None
    order: OrderBias | None
    best_of: Estimate | None


@dataclass(frozen=True, slots=True)
class PairCost:
    """What one pair costs, measured on `pairs` of them that are asked together, past the cache, the model being loaded.
    `tokens` are those read, written and scored."""

    pairs: int
    seconds: float
    calls: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Contender:
    """One of the judges on both parts. `words` make it (see rlaif.judge.compare.variants), `settings` are its judge
    table as far as that can change a verdict. The mean of all has no model, no settings and no cost of its own.
    `behind`: on the reporting part, by the criterion, the chosen judge less this one."""

    name: str
    words: list[str]
    model: str
    fingerprint: str
    settings: dict[str, Any]
    template_hash: str
    choosing: PartFigures
    reporting: PartFigures
    cost: PairCost | None
    behind: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """`winner` is the best by `criterion` on the choosing part, `runner_up` the second, None where there is none.
    `left_out` cannot be chosen for want of labels. `lead`: the winner less the runner-up there, paired; `lead_after`
    the same on the reporting part."""

    criterion: Criterion
    winner: str | None
    runner_up: str | None
    left_out: list[str]
    lead: Estimate | None
    lead_after: Estimate | None


@dataclass(frozen=True, slots=True)
class JudgeComparison:
    """Everything. `candidates` are the judges in their order and at the end the mean of all; `agreements` are over both
    parts, of the judges alone."""

    gold: str
    gold_about: str
    gold_hash: str
    constitution: str
    constitution_hash: str
    principles: list[str]
    seed: int
    share: float
    candidates: list[Contender]
    choice: Choice
    agreements: list[JudgeAgreement]
    notes: list[str]
    verdict: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """A hash of all but time and cost, and of the words that are made from it."""
        plain = [replace(candidate, cost=None) for candidate in self.candidates]
        return content_id("judges compared", FORMAT, replace(self, candidates=plain, verdict=[], notes=[]))

    def candidate(self, name: str | None) -> Contender | None:
        return next((candidate for candidate in self.candidates if candidate.name == name), None)

    def as_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "id": self.id, **to_json(self)}
