"""From verdicts to one label: pure functions, so that an edit of weights needs no judge call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlaif.records import Failure, Verdict


@dataclass(frozen=True, slots=True)
class Aggregate:
    """`prob_a` is None with a `failure`; `consistency` is None where no principle was judged in both orders."""

    prob_a: float | None
    consistency: float | None
    failure: Failure | None


def aggregate(verdicts: Sequence[Verdict], weights: Mapping[str, float], *, abstain_below: float = 0.0) -> Aggregate:
    """The label of one comparison: per principle the mean over the orders, over principles the weighted mean.

    `weights` maps principle id to weight. A principle with a failed verdict in either order says nothing: with one
    order alone, the judge's preference for a slot would stand as a preference for a response. If no principle is
    left the label is None with the first failure; |prob_a - 0.5| < `abstain_below` is None and "abstained".
    """
    by_principle: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_principle.setdefault(verdict.principle_id, []).append(verdict)
    total = weight_sum = gap = 0.0
    compared = 0
    for principle_id, group in by_principle.items():
        found = [p for p in (verdict.prob_a for verdict in group) if p is not None]
        weight = weights.get(principle_id, 0.0)
        if len(found) < len(group) or weight == 0:
            continue
        total += weight * sum(found) / len(found)
        weight_sum += weight
        if len(found) == 2:
            gap += abs(found[0] - found[1])
            compared += 1
    consistency = 1.0 - gap / compared if compared else None
    if weight_sum == 0:
        first = next((v.failure for v in verdicts if v.failure is not None), None)
        return Aggregate(None, consistency, first or Failure("empty", "no principle has a weight above 0"))
    prob_a = total / weight_sum
    if abs(prob_a - 0.5) < abstain_below:
        reason = f"prob_a {prob_a:.3f} is nearer to 0.5 than judge.abstain_below = {abstain_below}"
        return Aggregate(None, consistency, Failure("abstained", reason))
    return Aggregate(prob_a, consistency, None)
