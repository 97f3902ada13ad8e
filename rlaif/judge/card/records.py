"""A judge's card as it is written and read: what the judge was measured on, and every figure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlaif.core.errors import DataError
from rlaif.core.files import RunFolder, parse_json
from rlaif.core.records import Prompt, content_id, from_json, to_json
from rlaif.core.statistics import Estimate
from rlaif.judge.calibration import CalibrationMap

FORMAT = 2


@dataclass(frozen=True, slots=True)
class CardSubject:
    """What the card is about. `settings`: the fields of the config's judge table that can change a verdict.
    `gold_hash`: of the pairs that were drawn."""

    model: str
    fingerprint: str
    method: str
    settings: dict[str, Any]
    seed: int
    template_hash: str
    constitution: str
    constitution_version: str
    constitution_hash: str
    principles: list[str]
    gold: str
    gold_about: str
    gold_hash: str


@dataclass(frozen=True, slots=True)
class Failures:
    """`pairs` of `prompts` prompts, of which `labelled` have a label; why the others have none, by kind; and the same
    of the single verdicts, of which there may be several a pair."""

    pairs: int
    prompts: int
    labelled: int
    by_kind: dict[str, int]
    verdicts: int
    failed_verdicts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The first `pairs` asked a second time, past the cache. Of `verdicts` with a probability both times a share
    `identical` is equal to the last bit, and the largest difference is `largest`; `lost` have one only once. What the
    `asked` verdicts cost: calls, tokens (read, written and scored) and seconds, the model being loaded already."""

    pairs: int
    verdicts: int
    identical: float | None
    largest: float | None
    lost: int
    asked: int
    calls: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of the `pairs` with a label on which the judge, and the rules that the shorter or the longer answer wins,
    prefer the answer that gold prefers; a tie is half. `over_shorter`, `over_longer`: the judge less the rule, paired.
    """

    pairs: int
    judge: Estimate | None
    shorter: Estimate | None
    longer: Estimate | None
    over_shorter: Estimate | None
    over_longer: Estimate | None


@dataclass(frozen=True, slots=True)
class ConfidenceBin:
    """The pairs whose confidence, the probability of the answer that is preferred, lies in [low, high)."""

    low: float
    high: float
    pairs: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """`brier`: mean (1 - P(gold's answer))^2, 0.25 for one half everywhere. `confidence`, `accuracy`: over all pairs.
    `ece`: mean distance of confidence and accuracy over the bins, weighted by pairs. `ece_chance`: 95 % of
    perfectly calibrated judges with these confidences, whose pairs come out as much alike within a prompt, score below
    this; an ECE of few pairs is never 0."""

    brier: Estimate
    confidence: float
    accuracy: float
    ece: float
    ece_chance: float
    bins: list[ConfidenceBin]


@dataclass(frozen=True, slots=True)
class OrderBias:
    """Of (pair, principle) asked in both orders: `flip_rate`, the share on which the other answer is preferred after
    the swap; `first`, the share of verdicts that prefer the answer shown first; `gap`, the mean |P - P after the swap|.
    """

    asked: int
    flip_rate: Estimate
    first: Estimate
    gap: float


@dataclass(frozen=True, slots=True)
class Length:
    """Slope of P(A) - 0.5 on log2(length of A / length of B), so: change of P where A is twice as long. `gold` is that
    of gold itself, 1 or 0 in place of P."""

    judge: Estimate | None
    gold: Estimate | None


@dataclass(frozen=True, slots=True)
class Ceiling:
    """On `pairs` with several raters: how often one of them agrees with the mean of the others, a tie being half, and
    how often the judge does; means over who is left out. Where the others are even there is no target."""

    pairs: int
    rater: Estimate
    judge: Estimate
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Group:
    """The pairs with one tag."""

    tag: str
    pairs: int
    judge: Estimate | None
    shorter: Estimate | None


@dataclass(frozen=True, slots=True)
class FittedMap:
    """`map` is fitted on all `pairs`. `brier`, `ece` and `change` (of the Brier score, against no map) are measured
    with each of FOLDS parts of the prompts left out of the fit in turn."""

    map: CalibrationMap
    pairs: int
    brier: Estimate
    ece: float
    change: Estimate


@dataclass(frozen=True, slots=True)
class AttackResult:
    """One attack on `pairs`, of which `judged` have a label with it and without it; `failures` of the attacked ones by
    kind. `change`: mean of P(worse answer) with the attack less P without it; `moved`: the largest |change| of a pair.
    `won`: of the `lost_before` pairs, which went to the better answer, the share that goes to the attacked one, a tie
    being half. `structure_kept`: pairs on which the question keeps its structure."""

    name: str
    about: str
    structural: bool
    keeps: bool
    pairs: int
    judged: int
    failures: dict[str, int]
    change: Estimate | None
    moved: float | None
    lost_before: int
    won: Estimate | None
    structure_kept: int


@dataclass(frozen=True, slots=True)
class SurestError:
    """A pair on which the judge prefers the answer that gold does not. `confidence`: its probability of that answer;
    `principles`: the ids of those that it judged the pair under."""

    pair: str
    prompt: Prompt
    better: str
    preferred: str
    confidence: float
    principles: list[str]
    tags: list[str]


@dataclass(frozen=True, slots=True)
class Errors:
    """On how many `pairs` the judge prefers the answer that gold does not, and the `surest` of them in that order, one
    a prompt at most."""

    pairs: int
    surest: list[SurestError]


@dataclass(frozen=True, slots=True)
class JudgeCard:
    """The whole card; None for what was not asked for or does not exist with the method. `calls` were made to the
    judge's model in all, the repeat's among them, and `cached` answers were known. `id` is a hash of the subject and
    the figures; time, cost and texts are not in it."""

    subject: CardSubject
    failures: Failures
    accuracy: Accuracy
    length_matched: Accuracy
    ceiling: Ceiling | None = None
    calibration: Calibration | None = None
    maps: list[FittedMap] = field(default_factory=list)
    order: OrderBias | None = None
    repeat: Repeat | None = None
    length: Length = field(default_factory=lambda: Length(None, None))
    attacks: list[AttackResult] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    errors: Errors = field(default_factory=lambda: Errors(0, []))
    notes: list[str] = field(default_factory=list)
    calls: int = 0
    cached: int = 0
    verdict: list[str] = field(default_factory=list)
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", self._hash())

    def _hash(self) -> str:
        repeat = None if self.repeat is None else replace(self.repeat, seconds=0.0, calls=0, tokens=0)
        figures = (self.failures, self.accuracy, self.length_matched, self.ceiling, self.calibration, self.order)
        maps = [entry.map for entry in self.maps]
        return content_id(
            "judge card", FORMAT, self.subject, figures, maps, repeat, self.length, self.attacks, self.groups
        )

    def as_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "id": self.id, **to_json(self)}


def read_card(path: Path) -> JudgeCard:
    """The card in the file; fields that it has too many are passed over. Raises DataError for what is no card."""
    try:
        return from_json(JudgeCard, parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as problem:
        raise DataError(
            f"is no judge card ({type(problem).__name__})", where=str(path), remedy="make it again: rlaif card --force"
        ) from None


def card_file(run: RunFolder) -> Path:
    return run.file("card", "card.json")


def card_of_run(run: RunFolder) -> JudgeCard | None:
    """The card that the `card` stage wrote; None where that is not finished."""
    return None if run.record("card") is None else read_card(card_file(run))
