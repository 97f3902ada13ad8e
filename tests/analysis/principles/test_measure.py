"""What each principle does to labels, worked by hand; and what must change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.analysis.principles.matrix import matrix
from rlaif.analysis.principles.measure import Influence, overview
from rlaif.analysis.principles.pairs import VotedPair
from rlaif.core.statistics import Estimate
from rlaif.judge.aggregate import Settling, Vote
from tests.analysis.principles.pairs import DRAW, FAILED, influence, pair, rules

HEAVY = rules("kind", "brief", "safe", weights=(2.0, 1.0, 1.0))
BY_HAND = [
    pair(0, HEAVY, (0.9, 0.4, 0.2), lengths=(5, 9)),  # label 0.6
    pair(1, HEAVY, (0.6, 0.9, 0.9), lengths=(9, 5)),  # label 0.75
    pair(2, HEAVY, (0.5, 0.7, 0.3), lengths=(9, 5)),  # label 0.5
    pair(3, HEAVY, (0.2, 0.4, FAILED), lengths=(5, 5)),  # label (2 * 0.2 + 0.4) / 3 = 0.2667
]


def value(found: Estimate | None) -> float | None:
    return None if found is None else found.mean


def test_shares_by_hand() -> None:
    """Without kind the labels are 0.3, 0.9, 0.5, 0.4; without brief 0.6667, 0.7, 0.4333, 0.2; without safe 0.7333,
    0.7, 0.5667, 0.2667."""
    rows = influence(BY_HAND, HEAVY, {"pair0": 1.0, "pair1": 0.0})
    kind, brief, safe = rows["kind"], rows["brief"], rows["safe"]
    # pushes: pair 0 kind 0.8; pair 1 kind 0.2, brief and safe 0.4 each; pair 2 nobody; pair 3 kind 0.6, brief 0.1
    assert (kind.decided_pairs, brief.decided_pairs, safe.decided_pairs) == (2.0, 0.5, 0.5)
    assert [value(row.decided) for row in (kind, brief, safe)] == [0.5, 0.125, 0.125]
    # pair 2 goes from one half to a side without brief or safe: half a flip
    assert (kind.flips, brief.flips, safe.flips) == (1.0, 0.5, 0.5)
    assert value(kind.flip_rate) == 0.25
    assert value(kind.shift) == pytest.approx((0.3 + 0.15 + 0 + (0.4 - 0.8 / 3)) / 4)
    assert value(brief.shift) == pytest.approx((2 / 30 + 0.05 + 2 / 30 + 2 / 30) / 4)
    # kind against the others: pair 0 no, pair 1 yes, pair 2 both one half: yes, pair 3 yes
    assert value(kind.others) == 0.75
    # brief: no, yes, no, yes; safe has three votes: no, yes, no
    assert (value(brief.others), value(safe.others)) == (0.5, pytest.approx(1 / 3))
    assert (kind.pairs, safe.pairs, kind.ties, safe.ties, safe.failures) == (4, 4, 1, 0, {"parse": 1})
    assert kind.confidence == pytest.approx((0.4 + 0.1 + 0 + 0.3) / 4)
    assert (value(kind.gold), value(brief.gold)) == (0.5, 0.0)
    # the shorter one is A, B, B and neither; a tie and a pair of one length are left out
    assert [value(row.shorter) for row in (kind, brief, safe)] == [0.5, 0.0, pytest.approx(1 / 3)]
    # x = 0.4, 0.1, 0, -0.3; y = -4, 4, 4, 0
    assert kind.length_correlation == pytest.approx((-1.6 + 0.4) / (0.26 * 48) ** 0.5)
    assert not any(row.never_decides for row in rows.values())


def test_all_together_by_hand() -> None:
    found = overview(BY_HAND, {"pair0": 1.0, "pair1": 0.0}, DRAW)
    assert (found.pairs, found.prompts, found.labelled, found.several) == (4, 4, 4, 4)
    assert value(found.unanimous) == 0.5, "pairs 1 and 3"
    # two by two: pair 0 0 0 1, pair 1 1 1 1, pair 2 0.5 0.5 0, pair 3 1: means 1/3, 1, 1/3, 1
    assert value(found.agreement) == pytest.approx((1 / 3 + 1 + 1 / 3 + 1) / 4)
    assert (found.matched, value(found.matched_agreement)) == (1, 1.0)
    assert value(found.shorter) == 0.5, "A is shorter and wins, A is longer and wins; the label of one half is left out"
    assert (value(found.gold), value(found.gold_shorter)) == (0.5, 1.0)


def test_only_the_tier_that_speaks_decides() -> None:
    tiers = rules("first", "second", "third", tiers=(1, 2, 2))
    pairs = [
        pair(0, tiers, (0.8, 0.95, 0.0), margin=0.1),  # the first tier speaks, the push of second does not count
        pair(1, tiers, (0.55, 0.1, 0.3), margin=0.1),  # it comes too near: the second tier speaks, 0.2
        pair(2, tiers, (0.55, 0.9, 0.3), margin=0.1),  # 0.6, third against it
    ]
    rows = influence(pairs, tiers)
    assert [row.decided_pairs for row in rows.values()] == [1.0, 2.0, 0.0]
    # without first: 0.475, 0.2, 0.6; without second: 0.8, 0.3, 0.3; without third: 0.8, 0.1, 0.9
    assert [row.flips for row in rows.values()] == [1.0, 1.0, 0.0]
    assert value(rows["third"].shift) == pytest.approx((0 + 0.1 + 0.3) / 3)
    flat = [replace(each, settling=Settling()) for each in pairs]
    assert influence(flat, tiers)["first"].decided_pairs == 0


def test_labels_lost_gained_and_alone() -> None:
    two = rules("kind", "safe")
    pairs = [
        pair(0, two, (0.9, None)),
        pair(1, two, (0.9, FAILED)),
        pair(2, two, (0.9, 0.4), abstain=0.2),  # 0.65 abstains; without safe 0.9, without kind it abstains
    ]
    kind, safe = influence(pairs, two).values()
    assert (kind.lost, kind.alone, kind.gained, kind.compared, kind.flip_rate) == (2, 2, 0, 0, None)
    assert (safe.lost, safe.alone, safe.gained, safe.labelled) == (0, 0, 1, 1)
    assert not safe.never_decides, "it keeps a label away"


def test_a_principle_that_never_decides_is_found() -> None:
    three = rules("loud", "quiet", "idle", weights=(5.0, 1.0, 1.0))
    found = influence([pair(n, three, (0.9, 0.9, 0.5)) for n in range(6)], three)
    assert [row.never_decides for row in found.values()] == [False, True, True]
    assert value(found["idle"].shift) == pytest.approx(0.9 - 5.9 / 7), "it pulls every label towards one half"
    tiers = rules("loud", "idle", tiers=(1, 2))
    below = [pair(n, tiers, (0.9, 0.1), margin=0.1) for n in range(6)]
    rows = influence(below, tiers)
    assert (rows["idle"].never_decides, rows["loud"].never_decides) == (True, False)


# ---- what must change nothing ----------------------------------------------------------------------------------------

VOTE = st.sampled_from([None, FAILED, *(n / 16 for n in range(17))])
"""Sixteenths: 1 - p is exact, so that what is equal by rights is equal."""
TABLES = st.lists(
    st.tuples(st.tuples(VOTE, VOTE, VOTE), st.sampled_from([(3, 9), (9, 3), (8, 9), (5, 5)])), min_size=1, max_size=6
)
FEW = rules("kind", "brief", "safe", weights=(2.0, 1.0, 0.5), tiers=(1, 1, 2))
few_tables = settings(max_examples=25, deadline=None)


def swapped(one: VotedPair) -> VotedPair:
    votes = tuple(v if v.prob_a is None else Vote(v.principle, 1 - v.prob_a, v.gap, v.failure) for v in one.votes)
    return replace(one, lengths=one.lengths[::-1], votes=votes)


def same(one: dict[str, Influence], other: dict[str, Influence]) -> None:
    for name in one | other:
        for field in Influence.__slots__:  # type: ignore[attr-defined]
            left, right = (getattr(side[name], field) for side in (one, other))
            if isinstance(left, Estimate):
                assert right is not None
                left, right = left.mean, right.mean
            assert left == (pytest.approx(right, abs=1e-9) if isinstance(left, float) else right), field


@few_tables
@given(TABLES, st.integers(0, 63), st.sampled_from([None, 0.125]))
def test_which_answer_stands_as_a_changes_nothing(table, which, margin) -> None:  # type: ignore[no-untyped-def]
    pairs = [pair(n, FEW, votes, lengths=sizes, margin=margin) for n, (votes, sizes) in enumerate(table)]
    turned = [swapped(one) if which >> n & 1 else one for n, one in enumerate(pairs)]
    same(influence(pairs, FEW), influence(turned, FEW))
    one, other = matrix(pairs), matrix(turned)
    for before, after in ((one.agreement, other.agreement), (one.conflict, other.conflict)):
        flat = [[cell for row in cells for cell in row] for cells in (before, after)]
        assert sorted(map(str, flat[0])) == sorted(map(str, flat[1]))


@few_tables
@given(TABLES, st.permutations(range(3)))
def test_the_order_of_principles_changes_nothing(table, order) -> None:  # type: ignore[no-untyped-def]
    pairs = [pair(n, FEW, votes, lengths=sizes) for n, (votes, sizes) in enumerate(table)]
    rows = [replace(one, votes=tuple(sorted(one.votes, key=lambda v: order[FEW.index(v.principle)]))) for one in pairs]
    same(influence(pairs, FEW), influence(rows, [FEW[n] for n in order]))
    assert matrix(pairs) == matrix(rows)


@few_tables
@given(TABLES)
def test_without_weight_nothing_is_ever_decided(table) -> None:  # type: ignore[no-untyped-def]
    free = rules("kind", "brief", "safe", weights=(0.0, 1.0, 1.0))
    pairs = [pair(n, free, votes) for n, (votes, _) in enumerate(table)]
    row = influence(pairs, free)["kind"]
    assert (row.decided_pairs, row.flips, row.lost, row.gained, row.alone) == (0, 0, 0, 0, 0)
    assert row.shift is None or row.shift.mean == 0
    assert row.never_decides == (row.labelled > 0)


@few_tables
@given(TABLES)
def test_what_is_decided_adds_up_to_the_labels_with_a_side(table) -> None:  # type: ignore[no-untyped-def]
    pairs = [pair(n, FEW, votes) for n, (votes, _) in enumerate(table)]
    sided = sum(one.prob_a is not None and one.prob_a != 0.5 for one in pairs)
    assert sum(row.decided_pairs for row in influence(pairs, FEW).values()) == pytest.approx(sided)
