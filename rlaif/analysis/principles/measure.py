"""What each principle does to the labels: how often it decides, what happens without it, whom it agrees with.

Shares are means over prompts of each prompt's share, with intervals from the bootstrap over prompts
(rlaif.core.statistics). Which answer stands as A changes nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from rlaif.analysis.principles.pairs import VotedPair
from rlaif.core.records import Principle
from rlaif.core.statistics import Draw, Estimate, Keyed, agree, preferred
from rlaif.judge.aggregate import Vote


@dataclass(frozen=True, slots=True)
class Influence:
    """One principle. `pairs` were judged under it; on `failures` of them, by kind, it says nothing, on `ties` one half.

    `confidence`: mean |P - 0.5|. `decided`: share of the `labelled` pairs on which it pushes the most towards the
    label, split where several push alike; `decided_pairs` is their number. `compared` pairs have a label with it and
    without it: `flips` of these prefer another answer without it (to or from exactly 0.5 is half a flip), `flip_rate`
    and `shift` (|label - label without it|) say how many and how far. `lost` labels are there only with it, of which
    `alone` have no other vote that counts; `gained` would be there without it. `others`: agreement with the label that
    the others make, so that its own vote is not in it. `gold`: agreement with gold.
    `shorter`: share of its votes that prefer the shorter answer; `length_correlation` of P - 0.5 with the difference
    in length, below 0 where shorter answers are preferred.
    `never_decides`: it pushes the most on no pair, and without it every label is there and prefers the same answer.
    """

    id: str
    weight: float
    priority: int
    pairs: int
    failures: dict[str, int]
    ties: int
    confidence: float | None
    labelled: int
    decided_pairs: float
    decided: Estimate | None
    compared: int
    flips: float
    flip_rate: Estimate | None
    shift: Estimate | None
    lost: int
    alone: int
    gained: int
    others: Estimate | None
    gold: Estimate | None
    shorter: Estimate | None
    length_correlation: float | None
    never_decides: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """All principles together. `several`: pairs on which two principles or more prefer an answer; `unanimous`: the
    share of these on which all that do prefer the same one. `agreement`: share of (pair, two principles) on which the
    two prefer the same answer; `matched_agreement` on the `matched` pairs, whose answers are about equally long.
    `shorter`: share of labels that prefer the shorter answer. `gold`, `gold_shorter`: agreement with gold of the label,
    and of the rule that the shorter answer is the better."""

    pairs: int
    prompts: int
    labelled: int
    several: int
    unanimous: Estimate | None
    agreement: Estimate | None
    matched: int
    matched_agreement: Estimate | None
    shorter: Estimate | None
    gold: Estimate | None
    gold_shorter: Estimate | None


def influences(
    pairs: Sequence[VotedPair], principles: Iterable[Principle], gold: Mapping[str, float], draw: Draw
) -> Iterator[Influence]:
    """One per principle, in order. `gold`: id of a pair -> P(A is better), for those where gold prefers an answer."""
    labels = {pair.id: pair.prob_a for pair in pairs}
    deciders = {pair.id: pair.deciders() for pair in pairs}
    for principle in principles:
        yield _influence(principle, pairs, labels, deciders, gold, draw)


def _influence(
    principle: Principle,
    pairs: Sequence[VotedPair],
    labels: Mapping[str, float | None],
    deciders: Mapping[str, Sequence[str]],
    gold: Mapping[str, float],
    draw: Draw,
) -> Influence:
    asked = [(pair, vote) for pair in pairs for vote in pair.votes if vote.principle.id == principle.id]
    known = [(pair, vote.prob_a) for pair, vote in asked if vote.prob_a is not None]
    decided: list[Keyed] = []
    flips: list[Keyed] = []
    shifts: list[Keyed] = []
    others: list[Keyed] = []
    lost = alone = gained = 0
    for pair, vote in asked:
        label, without = labels[pair.id], pair.prob_without(principle.id)
        if label is not None:
            names = deciders[pair.id]
            decided.append((pair.prompt_id, 1 / len(names) if principle.id in names else 0.0))
        if label is not None and without is not None:
            flips.append((pair.prompt_id, 1 - agree(label, without)))
            shifts.append((pair.prompt_id, abs(label - without)))
        lost += label is not None and without is None
        alone += label is not None and not any(_counts(v) for v in pair.votes if v is not vote)
        gained += label is None and without is not None
        if vote.prob_a is not None and without is not None:
            others.append((pair.prompt_id, agree(vote.prob_a, without)))
    changed = any(value for _, value in (*decided, *flips))
    return Influence(
        id=principle.id,
        weight=principle.weight,
        priority=principle.priority,
        pairs=len(asked),
        failures=dict(Counter(vote.failure.kind for _, vote in asked if vote.failure is not None)),
        ties=sum(p == 0.5 for _, p in known),
        confidence=math.fsum(abs(p - 0.5) for _, p in known) / len(known) if known else None,
        labelled=len(decided),
        decided_pairs=math.fsum(value for _, value in decided if value is not None),
        decided=draw.share(decided),
        compared=len(flips),
        flips=math.fsum(value for _, value in flips if value is not None),
        flip_rate=draw.share(flips),
        shift=draw.mean(shifts),
        lost=lost,
        alone=alone,
        gained=gained,
        others=draw.share(others),
        gold=draw.share([(pair.prompt_id, agree(p, gold[pair.id])) for pair, p in known if pair.id in gold]),
        shorter=draw.share([(pair.prompt_id, agree(p, shorter_is_better(pair))) for pair, p in of_two_lengths(known)]),
        length_correlation=about_zero([(p - 0.5, pair.lengths[0] - pair.lengths[1]) for pair, p in known]),
        never_decides=bool(decided) and not (changed or lost or gained),
    )


def _counts(vote: Vote) -> bool:
    return vote.principle.weight > 0 and vote.prob_a is not None


def shorter_is_better(pair: VotedPair) -> float:
    """P(A is better) by the rule that the shorter answer is."""
    a, b = pair.lengths
    return 1.0 if a < b else 0.0 if a > b else 0.5


def of_two_lengths(known: Iterable[tuple[VotedPair, float]]) -> list[tuple[VotedPair, float]]:
    """Those of which one answer is the shorter one, and which prefer an answer."""
    return [(pair, p) for pair, p in known if pair.lengths[0] != pair.lengths[1] and p != 0.5]


def about_zero(points: Sequence[tuple[float, float]]) -> float | None:
    """Pearson's correlation of x and y about 0, -1..1; None where one of them is 0 everywhere.

    About 0 and not about the means, because it is drawn which answer stands as A: it is what Pearson gives when every
    pair stands in the list both ways round.
    """
    xx, yy = math.fsum(x * x for x, _ in points), math.fsum(y * y for _, y in points)
    return math.fsum(x * y for x, y in points) / math.sqrt(xx * yy) if xx > 0 and yy > 0 else None


def overview(pairs: Sequence[VotedPair], gold: Mapping[str, float], draw: Draw) -> Overview:
    """What the principles do together."""
    labels = [(pair, label) for pair in pairs if (label := pair.prob_a) is not None]
    sides = [(pair, [v.prob_a for v in pair.votes if _counts(v) and v.prob_a != 0.5]) for pair in pairs]
    several = [(pair, [p for p in given if p is not None]) for pair, given in sides if len(given) > 1]
    one_mind = [(pair.prompt_id, float(len(set(map(preferred, given))) == 1)) for pair, given in several]
    matched = [pair for pair in pairs if pair.length_matched]
    return Overview(
        pairs=len(pairs),
        prompts=len({pair.prompt_id for pair in pairs}),
        labelled=len(labels),
        several=len(several),
        unanimous=draw.share(one_mind),
        agreement=draw.share(_agreements(pairs)),
        matched=len(matched),
        matched_agreement=draw.share(_agreements(matched)),
        shorter=draw.share([(pair.prompt_id, agree(p, shorter_is_better(pair))) for pair, p in of_two_lengths(labels)]),
        gold=draw.share([(pair.prompt_id, agree(p, gold[pair.id])) for pair, p in labels if pair.id in gold]),
        gold_shorter=draw.share(
            [(pair.prompt_id, agree(gold[pair.id], shorter_is_better(pair))) for pair in pairs if pair.id in gold]
        ),
    )


def _agreements(pairs: Sequence[VotedPair]) -> list[Keyed]:
    found: list[Keyed] = []
    for pair in pairs:
        given = [vote.prob_a for vote in pair.votes if _counts(vote) and vote.prob_a is not None]
        twos = ((one, other) for one, other in combinations(given, 2) if not one == other == 0.5)
        found += [(pair.prompt_id, agree(one, other)) for one, other in twos]
    return found
