"""Figures worked by hand, and what must not change when all pairs are swapped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from rlaif.core.records import to_json
from rlaif.core.statistics import Draw
from rlaif.gold.pairs import GoldPair
from rlaif.judge.card.figures import (
    JudgedPair,
    accuracy,
    alike,
    calibrated,
    calibration,
    ceiling,
    errors,
    groups,
    length,
    order,
)
from rlaif.judge.card.records import Errors
from tests.judge.card.cases import judged

DRAW, FEW = Draw(1, 60), Draw(1, 12)


def test_accuracy_stands_beside_what_length_gets() -> None:
    rows = [
        judged("p", 0.9, a="short", b="much longer"),  # right, and the shorter one is the better
        judged("p", 0.2, a="much longer", b="short", a_is_better=False),  # right, the shorter one again
        judged("q", 0.5, a="same", b="size"),  # a tie is half, of the judge and of the rules
        judged("q", 0.4, a="much longer", b="short"),  # wrong, the longer one is the better
        judged("r", None),  # in no figure
    ]
    found = accuracy(rows, DRAW)
    assert found.pairs == 4
    assert found.judge is not None
    assert found.shorter is not None
    assert found.longer is not None
    assert found.over_shorter is not None
    assert found.judge.mean == pytest.approx((1.0 + 0.25) / 2)
    assert found.shorter.mean == pytest.approx((1.0 + 0.25) / 2)
    assert found.longer.mean == pytest.approx((0.0 + 0.75) / 2)
    assert found.over_shorter.mean == pytest.approx(0.0)
    assert (found.judge.n, found.judge.prompts) == (4, 2)


def test_a_judge_that_is_right_where_length_is_wrong_on_all_prompts_has_an_interval() -> None:
    found = accuracy([judged(str(n), 0.9, a="short", b="much longer") for n in range(16)], DRAW).over_longer
    assert found is not None
    assert (found.mean, found.low, found.high) == (1.0, pytest.approx(0.7262, abs=1e-4), 1.0)
    alone = accuracy([judged("p", 0.9, a="short", b="much longer")], DRAW).over_longer
    assert alone is not None
    assert (alone.mean, alone.low, alone.high) == (1.0, None, None)


def test_brier_and_ece_by_hand() -> None:
    # right with 0.9, right with 0.6, a tie, wrong with 0.8
    rows = [judged(str(n), p) for n, p in enumerate((0.9, 0.6, 0.5, 0.2))]
    found = calibration(rows, DRAW)
    assert found is not None
    assert found.brier.mean == pytest.approx((0.01 + 0.16 + 0.25 + 0.64) / 4)
    assert found.ece == pytest.approx((0.1 + 0.4 + 0.0 + 0.8) / 4)
    assert (found.confidence, found.accuracy) == (pytest.approx(0.7), 0.625)
    assert [(b.pairs, b.accuracy) for b in found.bins] == [(1, 0.5), (1, 1.0), (0, None), (1, 0.0), (1, 1.0)]
    assert [b.low for b in found.bins] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert calibration([judged("p", None)], DRAW) is None


def test_a_bin_holds_the_mean_confidence_of_its_pairs_and_the_last_one_certainty_too() -> None:
    # surely right twice, surely wrong, and 0.9; then 0.62 right and 0.66 wrong
    rows = [judged(str(n), p) for n, p in enumerate((1.0, 1.0, 0.0, 0.9, 0.62, 0.34))]
    found = calibration(rows, DRAW)
    assert found is not None
    assert [b.pairs for b in found.bins] == [0, 2, 0, 0, 4]
    assert [b.confidence for b in found.bins] == [None, pytest.approx(0.64), None, None, pytest.approx(0.975)]
    assert [b.accuracy for b in found.bins] == [None, 0.5, None, None, 0.75]
    assert [b.high for b in found.bins] == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])
    # (|2 * 0.64 - 1| + |4 * 0.975 - 3|) / 6
    assert found.ece == pytest.approx((0.28 + 0.9) / 6)


def test_a_calibrated_judge_stays_below_the_ece_of_chance_and_a_boaster_does_not() -> None:
    honest = calibration([judged(str(n), 0.75 if n % 4 else 0.25) for n in range(200)], DRAW)
    boaster = calibration([judged(str(n), 0.95 if n % 4 else 0.05) for n in range(200)], DRAW)
    assert honest is not None
    assert boaster is not None
    assert honest.ece == pytest.approx(0.0)
    # of 200 draws at 0.75 the share right has a standard deviation of 0.0306: 95 of 100 lie within 0.06
    assert honest.ece_chance == pytest.approx(0.06, abs=0.01)
    assert boaster.ece == pytest.approx(0.2)
    assert boaster.ece > boaster.ece_chance


def test_how_alike_the_pairs_of_a_prompt_come_out_by_hand() -> None:
    both, prompts = np.full(4, 0.75), np.array([0, 0, 1, 1])
    # (2 * 0.25)^2 - 2 * 0.25^2 and (2 * -0.75)^2 - 2 * 0.75^2, over twice 2 * (0.75 - 0.75^2): 1.25 / 0.75, so 1
    assert alike(both, np.array([1.0, 1.0, 0.0, 0.0]), prompts) == 1.0
    # the second prompt has one right, one wrong: 2 * 0.25^2 + 2 * 0.25 * -0.75 = -0.25, so 0
    assert alike(both, np.array([1.0, 1.0, 1.0, 0.0]), prompts) == 0.0
    # 2 * 0.1 * 0.4 over 2 * (0.6 - 0.9 * 0.6)
    assert alike(np.array([0.9, 0.6]), np.array([1.0, 1.0]), np.array([0, 0])) == pytest.approx(0.08 / 0.12)
    assert alike(both, np.ones(4), np.arange(4)) == 0.0, "a prompt each"
    assert alike(np.ones(4), np.zeros(4), prompts) == 0.0, "no draw at all"


def test_a_calibrated_judge_is_mostly_called_calibrated_whatever_its_prompts_share() -> None:
    """20 prompts of 10 pairs, half of them decided by one draw of their prompt: 34 of 100 were called uncalibrated."""
    confidence, prompts = np.full(200, 0.75), np.repeat(np.arange(20), 10)
    drawn = calibrated(confidence, prompts, 0.5, 7)
    called = 0
    for right in (next(drawn) for _ in range(40)):
        rows = [judged(str(n), 0.75 if won else 0.25) for n, won in zip(prompts, right, strict=True)]
        found = calibration(rows, Draw(1, 2))
        assert found is not None
        called += found.ece > found.ece_chance
    assert called <= 6


def test_ceiling_by_hand() -> None:
    rows = [
        # the third is against the other two; without the first or the second the others are even: no target
        judged("p", 0.9, raters=((0.0, 1.0), (0.0, 1.0), (1.0, 0.0))),
        # the third is even himself: half
        judged("q", 0.2, raters=((0.0, 0.5), (0.0, 1.0), (0.5, 0.5))),
        judged("r", 0.9, raters=((0.0, 1.0),)),  # one alone has no others
        judged("s", None, raters=((0.0, 1.0), (0.0, 1.0))),
    ]
    found = ceiling(rows, DRAW)
    assert found is not None
    assert found.pairs == 2
    assert found.rater.mean == pytest.approx((0.0 + 2.5 / 3) / 2)
    assert found.judge.mean == pytest.approx(0.5)
    assert found.difference.mean == pytest.approx(0.5 - 2.5 / 6)
    assert ceiling(rows[2:], DRAW) is None


def test_order_by_hand() -> None:
    rows = [
        judged("p", 0.5, shown=(("ab", 0.9), ("ba", 0.7))),  # the first one both times: a flip
        judged("q", 0.8, shown=(("ab", 0.9), ("ba", 0.3))),  # A both times
        judged("r", 0.8, shown=(("ab", 0.9),)),  # the other order failed: a place, but no swap
        judged("s", 0.8, shown=(("none", 0.9),)),
    ]
    found = order(rows, DRAW)
    assert found is not None
    assert found.asked == 2
    assert found.flip_rate.mean == 0.5
    assert found.first.mean == pytest.approx((1.0 + 0.5 + 1.0) / 3)
    assert found.gap == pytest.approx((0.6 + 0.2) / 2)
    assert order(rows[3:], DRAW) is None


def test_length_by_hand() -> None:
    # A twice as long: P + 0.1; a quarter as long: P - 0.4; so slope (0.1 + 0.8) / (1 + 4)
    found = length([judged("p", 0.6, a="aaaa"), judged("q", 0.1, a="a", b="bbbb", a_is_better=False)], DRAW)
    assert found.judge is not None
    assert found.gold is not None
    assert found.judge.mean == pytest.approx(0.18)
    assert found.gold.mean == pytest.approx((0.5 + 1.0) / 5)
    same = length([judged("p", 0.9)], DRAW)
    assert (same.judge, same.gold) == (None, None)


def test_a_single_prompt_has_no_interval() -> None:
    rows = [judged("p", 0.9, a="long one"), judged("p", 0.2, b="long one", shown=(("ab", 0.2), ("ba", 0.8)))]
    found = accuracy(rows, DRAW)
    turned = order(rows, DRAW)
    slopes = length(rows, DRAW)
    assert turned is not None
    for estimate in (found.judge, found.over_shorter, turned.first, turned.flip_rate, slopes.judge):
        assert estimate is not None
        assert (estimate.low, estimate.high) == (None, None)


def test_the_surest_errors_are_those_of_the_furthest_probabilities_one_a_prompt() -> None:
    rows = [
        judged("p", 0.4, a="right 1", b="wrong 1"),
        judged("p", 0.1, a="right 2", b="wrong 2", shown=[("ab", 0.1), ("ba", 0.9)]),
        judged("q", 0.7, a="wrong 3", b="right 3", a_is_better=False),
        judged("r", 0.5, a="tie", b="even"),
        judged("s", 0.9, a="right", b="wrong"),
        judged("t", None),
        judged("u", 0.45, a="right 4", b="wrong 4"),
    ]
    found = errors(rows, 2)
    assert found.pairs == 4
    assert [(e.prompt.text, e.better, e.preferred) for e in found.surest] == [
        ("p", "right 2", "wrong 2"),
        ("q", "right 3", "wrong 3"),
    ]
    assert [e.confidence for e in found.surest] == [pytest.approx(0.9), pytest.approx(0.7)]
    assert found.surest[0].principles == ["p"]
    assert errors(rows[::-1], 2) == found, "whatever their order"
    assert errors(rows, 0) == Errors(4, [])
    assert errors([rows[4]], 5) == Errors(0, [])


def test_groups_are_those_of_the_tags() -> None:
    rows = [judged("p", 0.9), judged("q", 0.1), judged("r", 0.9)]
    tagged = [
        replace(row, pair=replace(row.pair, tags=tags))
        for row, tags in zip(rows, [("x",), ("x", "y", "y"), ()], strict=True)
    ]
    found = groups(tagged, DRAW)
    assert [(g.tag, g.pairs, g.judge and g.judge.mean) for g in found] == [("x", 2, 0.5), ("y", 1, 0.0)]


SIXTEENTHS = st.integers(0, 16).map(lambda n: n / 16)
ROWS = st.lists(
    st.builds(
        judged,
        st.sampled_from("pqrs"),
        st.none() | SIXTEENTHS,
        a_is_better=st.booleans(),
        a=st.integers(1, 9).map(lambda n: "a" * n),
        b=st.integers(1, 9).map(lambda n: "b" * n),
        raters=st.lists(st.tuples(SIXTEENTHS, SIXTEENTHS), max_size=3).map(tuple),
        shown=st.lists(st.tuples(st.sampled_from(["ab", "ba"]), SIXTEENTHS), max_size=2, unique_by=lambda v: v[0]),
    ),
    min_size=1,
    max_size=8,
)


def swapped(row: JudgedPair) -> JudgedPair:
    """The same pair with the answers in each other's place: what was shown first then is shown first now."""
    pair = row.pair.comparison.swap()
    prob_a = None if row.label.prob_a is None else 1 - row.label.prob_a
    verdicts = tuple(
        replace(v, comparison_id=pair.id, order="ba" if v.order == "ab" else "ab", id="") for v in row.label.verdicts
    )
    raters = tuple((b, a) for a, b in row.pair.raters)
    gold = GoldPair(pair, not row.pair.a_is_better, row.pair.tags, raters=raters)
    return JudgedPair(gold, replace(row.label, comparison=pair, prob_a=prob_a, verdicts=verdicts, id=""))


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key in value for leaf in flat(value[key])]
    return [leaf for item in value for leaf in flat(item)] if isinstance(value, list) else [value]


@limits(max_examples=12, deadline=None, phases=[Phase.generate], derandomize=True)
@given(ROWS)
def test_a_swap_of_all_pairs_changes_no_figure(rows: list[JudgedPair]) -> None:
    turned = [swapped(row) for row in rows]
    for figure in (accuracy, calibration, order, length, ceiling):
        one, other = figure(rows, FEW), figure(turned, FEW)
        assert (one is None) == (other is None)
        if one is not None:
            assert flat(to_json(one)) == pytest.approx(flat(to_json(other)), abs=1e-12)
    assert [row.pair.identity for row in rows] == [row.pair.identity for row in turned]
