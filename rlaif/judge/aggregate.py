"""From verdicts to one label: pure functions, so that an edit of weights or tiers needs no judge call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rlaif.core.records import Failure, Principle, Verdict
from rlaif.core.statistics import sigmoid
from rlaif.judge.calibration import CalibrationMap

ALONE: Mapping[str, float] = {"": 1.0}
"""The weights of a panel of one: the run's own judge, which has no name."""


@dataclass(frozen=True, slots=True)
class Settling:
    """How verdicts become a label.

    `panel`: member -> weight of its vote. `tier_margin`: the principles of the highest tier (the smallest `priority`)
    decide, and a lower tier speaks only where all above it come within the margin of 0.5; the last tier that is there
    always speaks; None = all count alike. `calibration` maps the mean of the votes, after the tiers, to `prob_a`.
    A `prob_a` nearer to 0.5 than `abstain_below` is no label.
    """

    panel: Mapping[str, float] = field(default_factory=lambda: ALONE)
    tier_margin: float | None = None
    calibration: CalibrationMap | None = None
    abstain_below: float = 0.0


@dataclass(frozen=True, slots=True)
class Aggregate:
    """`prob_a` is None with a `failure`; `consistency` is None where no principle was judged in both orders."""

    prob_a: float | None
    consistency: float | None
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Vote:
    """What one principle says of a pair: P(A is better) or None with the `failure`; `gap` between the two orders, if
    there are two, before any clamp. Of a panel the weighted mean of the members that have an answer, and the mean gap.
    """

    principle: Principle
    prob_a: float | None
    gap: float | None
    failure: Failure | None


def votes(
    verdicts: Sequence[Verdict], principles: Iterable[Principle], panel: Mapping[str, float] = ALONE
) -> list[Vote]:
    """The vote of each principle that has verdicts of the panel's members, in the principles' order.

    A failed verdict in either order silences its member: with one order alone, the judge's preference for a slot would
    stand as a preference for a response. A principle is silent where every member is.
    """
    groups: dict[str, dict[str, list[Verdict]]] = {}
    for verdict in verdicts:
        if verdict.member in panel:
            groups.setdefault(verdict.principle_id, {}).setdefault(verdict.member, []).append(verdict)
    return [_vote(p, [(panel[m], own) for m, own in groups[p.id].items()]) for p in principles if p.id in groups]


def _vote(principle: Principle, members: Sequence[tuple[float, Sequence[Verdict]]]) -> Vote:
    """`members`: weight and verdicts of each."""
    said = [(weight, own, _mean_over_orders(own)) for weight, own in members]
    known = [(weight, own, prob_a) for weight, own, prob_a in said if prob_a is not None]
    if not known:
        failure = next((v.failure for _, own, _ in said for v in own if v.failure is not None), None)
        return Vote(principle, None, None, failure or Failure("backend", "no probability and no reason"))
    gaps = [abs(_unclamped(own[0]) - _unclamped(own[1])) for _, own, _ in known if len(own) == 2]
    prob_a = math.fsum(weight * p for weight, _, p in known) / math.fsum(weight for weight, _, _ in known)
    return Vote(principle, prob_a, math.fsum(gaps) / len(gaps) if gaps else None, None)


def _mean_over_orders(verdicts: Sequence[Verdict]) -> float | None:
    found = [p for p in (verdict.prob_a for verdict in verdicts) if p is not None]
    return math.fsum(found) / len(found) if len(found) == len(verdicts) else None


def _unclamped(verdict: Verdict) -> float:
    """P(A is better) under the one order. A clamp would hide how far two orders are apart, so it is made from the
    margin, which for the methods with two orders is a log-odds; without one it is the probability itself."""
    assert verdict.prob_a is not None
    if verdict.margin is None:
        return verdict.prob_a
    return sigmoid(-verdict.margin if verdict.order == "ba" else verdict.margin)


def aggregate(
    verdicts: Sequence[Verdict], principles: Iterable[Principle], settling: Settling | None = None
) -> Aggregate:
    """The label of one comparison: per principle the mean over orders and members, over principles the weighted mean.

    A principle that is silent says nothing. If none that counts is left, or none in a tier that would have to speak,
    the label is None with the first failure: a lower tier is no substitute for a higher one that could not be judged.
    """
    settling = settling or Settling()
    return settled(votes(verdicts, principles, settling.panel), settling)


def settled(given: Sequence[Vote], settling: Settling) -> Aggregate:
    """What `aggregate` makes of the votes of one comparison."""
    counted = [vote for vote in given if vote.principle.weight > 0]
    gaps = [vote.gap for vote in counted if vote.gap is not None]
    consistency = 1.0 - math.fsum(gaps) / len(gaps) if gaps else None
    tier = speaking(counted, settling.tier_margin)
    if not tier:
        return Aggregate(None, consistency, Failure("empty", "no principle has a weight above 0"))
    mean = _weighted_mean(tier)
    if mean is None:
        return Aggregate(None, consistency, next(vote.failure for vote in tier if vote.failure is not None))
    prob_a = mean if settling.calibration is None else settling.calibration(mean)
    if abs(prob_a - 0.5) < settling.abstain_below:
        reason = f"prob_a {prob_a:.3f} is nearer to 0.5 than judge.abstain_below = {settling.abstain_below}"
        return Aggregate(None, consistency, Failure("abstained", reason))
    return Aggregate(prob_a, consistency, None)


def speaking(given: Sequence[Vote], tier_margin: float | None) -> list[Vote]:
    """The votes with a weight of the tier that makes the label: all without `tier_margin`; none where none counts."""
    tier: list[Vote] = []
    for tier in _tiers([vote for vote in given if vote.principle.weight > 0], tier_margin):
        prob_a = _weighted_mean(tier)
        if prob_a is None or tier_margin is None or abs(prob_a - 0.5) > tier_margin:
            break
    return tier


def _tiers(counted: Sequence[Vote], tier_margin: float | None) -> list[list[Vote]]:
    """The votes of each tier, the highest first; all in one where tiers do not count. No empty list."""
    groups: dict[int, list[Vote]] = {}
    for vote in counted:
        groups.setdefault(0 if tier_margin is None else vote.principle.priority, []).append(vote)
    return [groups[tier] for tier in sorted(groups)]


def _weighted_mean(tier: Sequence[Vote]) -> float | None:
    known = [(vote.principle.weight, vote.prob_a) for vote in tier if vote.prob_a is not None]
    if not known:
        return None
    return math.fsum(weight * prob for weight, prob in known) / math.fsum(weight for weight, _ in known)
