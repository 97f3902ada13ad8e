"""What `revise` and `label` left, counted in one pass over each file; examples are chosen by id, never by result."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.records import (
    LEFT_OUT,
    AnswerSource,
    Constitution,
    FailedAnswer,
    Failure,
    PreferenceLabel,
    Principle,
    RevisionTrace,
    Verdict,
)
from rlaif.judge.aggregate import ALONE, votes
from rlaif.judge.confounds import Confounds, ConfoundTally
from rlaif.view.text import is_known

T = TypeVar("T")
BINS = 20
ABSTAINED = "abstained"
"""Kind of a label that is missing by choice: the judge answered, and was too unsure to count."""


class Sample(Generic[T]):
    """The `size` records with the smallest ids. Ids are content hashes, so this is a fixed random draw."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: dict[str, T] = {}

    def add(self, identity: str, record: T) -> None:
        self._kept[identity] = record
        if len(self._kept) > 4 * self.size + 16:
            self._kept = {key: self._kept[key] for key in sorted(self._kept)[: self.size]}

    def taken(self) -> list[T]:
        return [self._kept[key] for key in sorted(self._kept)[: self.size]]


@dataclass(slots=True)
class PrincipleTally:
    """How often a principle was drawn in `revise` and what came of it."""

    drawn: int = 0
    no_change: int = 0
    accepted: int = 0


@dataclass(slots=True)
class ReviseFacts:
    """`revise` in numbers. Traces without rounds belong to slices that are kept as they are."""

    traces: int = 0
    kept: int = 0
    revised: int = 0
    rounds: int = 0
    no_change: int = 0
    revisions: int = 0
    accepted: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    principles: dict[str, PrincipleTally] = field(default_factory=dict)
    examples: list[RevisionTrace] = field(default_factory=list)

    @property
    def attempted(self) -> int:
        return self.traces - self.kept


def read_revise(run: RunFolder, examples: int) -> ReviseFacts:
    """The facts of revise/traces.jsonl and failures.jsonl as far as they are written."""
    facts, sample = ReviseFacts(), Sample[RevisionTrace](examples)
    _count_answers(facts.failures, run, "revise")
    for trace in JsonlFile(run.file("revise", "traces.jsonl"), RevisionTrace):
        facts.traces += 1
        if not trace.rounds:
            facts.kept += 1
            continue
        facts.revised += trace.revised
        sample.add(trace.id, trace)
        for turn in trace.rounds:
            facts.rounds += 1
            tally = facts.principles.setdefault(turn.principle_id, PrincipleTally())
            tally.drawn += 1
            tally.accepted += any(revision.accepted for revision in turn.revisions)
            if turn.critique is not None:
                tally.no_change += turn.critique.no_change
                facts.no_change += turn.critique.no_change
                _count(facts.failures, turn.critique.failure, "critique")
            for revision in turn.revisions:
                facts.revisions += 1
                facts.accepted += revision.accepted
                _count(facts.failures, revision.failure, "revision")
                _count_verdicts(facts.failures, revision.verdicts)
    facts.examples = sample.taken()
    return facts


def _count(failures: Counter[str], failure: Failure | None, where: str) -> None:
    if failure is not None and failure.kind not in LEFT_OUT:
        failures[f"{where}: {failure.kind}"] += 1


def _count_answers(failures: Counter[str], run: RunFolder, stage: str) -> None:
    """Adds the answers that the policy could not give."""
    for answer in JsonlFile(run.file(stage, "failures.jsonl"), FailedAnswer):
        _count(failures, answer.failure, "answer")


def _count_verdicts(failures: Counter[str], verdicts: Iterable[Verdict]) -> None:
    for verdict in verdicts:
        _count(failures, verdict.failure, "verdict")


@dataclass(slots=True)
class PrincipleVoice:
    """What one principle said over all pairs. Its vote on a pair is the mean prob_a of its verdicts; with a failed
    verdict in either order it has no vote, as in the label."""

    verdicts: int = 0
    failed: int = 0
    margin_sum: float = 0.0
    margins: int = 0
    votes: int = 0
    agreed: int = 0
    strongest: int = 0

    @property
    def mean_margin(self) -> float | None:
        """Mean absolute margin in nats."""
        return self.margin_sum / self.margins if self.margins else None

    @property
    def agreement(self) -> float | None:
        """Share of its votes that fall on the same side as the label."""
        return self.agreed / self.votes if self.votes else None


@dataclass(slots=True)
class SourceFacts:
    """The labels whose answers came about in one way. `left_out`: kinds of labels that are missing by choice."""

    labels: int = 0
    settled: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    judged: int = 0
    """Pairs by contrast that the judge gave a preference for."""
    tally: ConfoundTally = field(default_factory=ConfoundTally)

    @property
    def confounds(self) -> Confounds:
        return self.tally.shares()

    @property
    def confirmed(self) -> float | None:
        """Share of the pairs by contrast on which the judge prefers the answer that follows the principle, of those
        where it prefers one; None where no judge was asked or none prefers."""
        if not self.judged:
            return None
        return (self.judged - self.left_out["disagreed"]) / self.judged


@dataclass(slots=True)
class LabelFacts:
    """`label` in numbers. An abstention is no failure: the judge answered, and was too unsure to count."""

    labels: int = 0
    settled: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    sources: dict[AnswerSource, SourceFacts] = field(default_factory=dict)
    bins: list[int] = field(default_factory=lambda: [0] * BINS)
    clear: int = 0
    entropy_sum: float = 0.0
    consistencies: list[float] = field(default_factory=list)
    voices: dict[str, PrincipleVoice] = field(default_factory=dict)
    examples: list[PreferenceLabel] = field(default_factory=list)

    @property
    def abstained(self) -> int:
        return self.left_out[ABSTAINED]

    @property
    def failed(self) -> int:
        return self.labels - self.settled - self.left_out.total()

    @property
    def consistency(self) -> float | None:
        """Mean of 1 - |p(ab) - p(ba)|; None for methods that see one response at a time."""
        return sum(self.consistencies) / len(self.consistencies) if self.consistencies else None

    @property
    def entropy(self) -> float | None:
        """Mean entropy of the soft labels in nats; no reward model can have a lower log-loss on them."""
        return self.entropy_sum / self.settled if self.settled else None

    @property
    def clear_share(self) -> float | None:
        """Share of the settled labels that are at least 0.25 away from 0.5."""
        return self.clear / self.settled if self.settled else None


def read_label(
    run: RunFolder, constitution: Constitution | None, examples: int, panel: Mapping[str, float] = ALONE
) -> LabelFacts:
    """The facts of label/labels.jsonl and failures.jsonl as far as they are written; `panel`: member -> weight."""
    weights = {p.id: p.weight for p in constitution.principles} if constitution is not None else {}
    facts, sample = LabelFacts(), Sample[PreferenceLabel](examples)
    _count_answers(facts.failures, run, "label")
    for label in JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel):
        facts.labels += 1
        sample.add(label.comparison.id, label)
        _count(facts.failures, label.failure, "label")
        _count_verdicts(facts.failures, label.verdicts)
        if is_known(label.consistency):
            facts.consistencies.append(label.consistency)
        if is_known(label.prob_a):
            _add_settled(facts, label.prob_a)
        elif label.failure is not None and label.failure.kind in LEFT_OUT:
            facts.left_out[label.failure.kind] += 1
        _add_source(facts.sources.setdefault(label.answers, SourceFacts()), label)
        _add_voices(facts, label, weights, panel)
    facts.examples = sample.taken()
    return facts


def _add_source(source: SourceFacts, label: PreferenceLabel) -> None:
    kind = None if label.failure is None else label.failure.kind
    source.labels += 1
    source.settled += label.prob_a is not None
    source.left_out.update([kind] if kind in LEFT_OUT else [])
    source.judged += bool(label.answers == "contrast" and label.verdicts and kind in (None, "disagreed", "unbalanced"))
    source.tally.add(label)


def _add_settled(facts: LabelFacts, prob: float) -> None:
    facts.settled += 1
    facts.bins[min(int(prob * BINS), BINS - 1)] += 1
    facts.clear += abs(prob - 0.5) >= 0.25
    facts.entropy_sum -= sum(p * math.log(p) for p in (prob, 1 - prob) if p > 0)


def _add_voices(
    facts: LabelFacts, label: PreferenceLabel, weights: Mapping[str, float], panel: Mapping[str, float]
) -> None:
    for verdict in label.verdicts:
        voice = facts.voices.setdefault(verdict.principle_id, PrincipleVoice())
        voice.verdicts += 1
        voice.failed += verdict.prob_a is None
        if is_known(verdict.margin):
            voice.margins += 1
            voice.margin_sum += abs(verdict.margin)
    asked = [Principle(name, "") for name in dict.fromkeys(verdict.principle_id for verdict in label.verdicts)]
    said = votes(label.verdicts, asked, panel)
    means = {vote.principle.id: vote.prob_a for vote in said if vote.prob_a is not None}
    if not is_known(label.prob_a) or not means:
        return
    for principle, mean in means.items():
        facts.voices[principle].votes += 1
        facts.voices[principle].agreed += (mean - 0.5) * (label.prob_a - 0.5) > 0
    loudest = max(means, key=lambda p: weights.get(p, 1.0) * abs(means[p] - 0.5))
    facts.voices[loudest].strongest += 1
