"""From verdicts to a label, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlaif.core.records import Failure, Order, Principle, Verdict
from rlaif.judge.aggregate import Settling, aggregate, votes

BROKEN = Failure("parse", "no letter")


def verdict(principle: str, order: Order, prob_first: float | None, failure: Failure | None = None) -> Verdict:
    return Verdict("c", principle, f"hash of {principle}", "pairwise", order, "judge", prob_first, failure=failure)


def rules(**weights: float) -> list[Principle]:
    return [Principle(name, f"Be {name}.", weight=weight) for name, weight in weights.items()]


def tiers(**priorities: int) -> list[Principle]:
    return [Principle(name, f"Be {name}.", priority=priority) for name, priority in priorities.items()]


def test_both_orders_are_averaged_per_principle() -> None:
    # Shown first, A gets 0.9; shown second, the first one (B) gets 0.7, so A gets 0.3. A slot lover: mean 0.6.
    found = aggregate([verdict("p", "ab", 0.9), verdict("p", "ba", 0.7)], rules(p=1.0))
    assert found.prob_a == pytest.approx(0.6)
    assert found.consistency == pytest.approx(1 - 0.6)
    assert found.failure is None


def test_consistency_is_one_less_the_mean_gap_of_the_principles() -> None:
    verdicts = [
        *(verdict("p", "ab", 0.9), verdict("p", "ba", 0.7)),  # 0.9 and 0.3: 0.6 apart
        *(verdict("q", "ab", 0.4), verdict("q", "ba", 0.4)),  # 0.4 and 0.6: 0.2 apart
        verdict("r", "none", 0.8),  # has no orders to differ
    ]
    assert aggregate(verdicts, rules(p=1.0, q=3.0, r=1.0)).consistency == pytest.approx(1 - 0.4)


def test_a_panel_votes_by_weight_and_its_gap_is_the_mean_of_its_members() -> None:
    panel = {"one": 3.0, "two": 1.0, "three": 5.0}
    said = [("one", "ab", 0.9), ("one", "ba", 0.3), ("two", "ab", 0.5), ("two", "ba", 0.9)]
    verdicts = [replace(verdict("p", order, prob), member=name) for name, order, prob in said]
    verdicts.append(replace(verdict("p", "ab", None, BROKEN), member="three"))  # has no say
    verdicts.append(replace(verdict("p", "none", 0.0), member="a stranger"))
    (vote,) = votes(verdicts, rules(p=1.0), panel)
    # one: 0.9 and 0.7, mean 0.8, 0.2 apart; two: 0.5 and 0.1, mean 0.3, 0.4 apart
    assert vote.prob_a == pytest.approx((3 * 0.8 + 0.3) / 4)
    assert vote.gap == pytest.approx(0.3)
    assert aggregate(verdicts, rules(p=1.0), Settling(panel=panel)).consistency == pytest.approx(0.7)


def test_a_gap_is_taken_before_the_clamp() -> None:
    # margins of 3 and -1 nats for the first one shown: 0.9526 for A, then 0.7311 for A
    orders = [
        replace(verdict("p", order, prob), margin=margin)
        for order, prob, margin in (("ab", 0.6, 3.0), ("ba", 0.4, -1.0))
    ]
    found = aggregate(orders, rules(p=1.0))
    assert (found.prob_a, found.consistency) == (pytest.approx(0.6), pytest.approx(1 - (0.952574 - 0.731059), abs=1e-6))


def test_a_judge_that_always_takes_the_first_slot_says_one_half() -> None:
    found = aggregate([verdict("p", "ab", 1.0), verdict("p", "ba", 1.0)], rules(p=1.0))
    assert (found.prob_a, found.consistency) == (0.5, 0.0)


def test_principles_count_by_weight() -> None:
    verdicts = [verdict("p", "none", 0.2), verdict("q", "none", 0.8)]
    assert aggregate(verdicts, rules(p=1.0, q=3.0)).prob_a == pytest.approx(0.65)
    assert aggregate(verdicts, rules(p=2.0, q=0.0)).prob_a == pytest.approx(0.2)
    assert aggregate(verdicts, rules(p=2.0, q=0.0)).consistency is None


def test_a_principle_with_one_order_failed_is_left_out() -> None:
    verdicts = [
        verdict("p", "ab", 0.9),
        verdict("p", "ba", None, BROKEN),
        verdict("q", "ab", 0.3),
        verdict("q", "ba", 0.6),
    ]
    found = aggregate(verdicts, rules(p=5.0, q=1.0))
    assert found.prob_a == pytest.approx((0.3 + 0.4) / 2)
    assert found.consistency == pytest.approx(0.9)
    assert found.failure is None


def test_with_no_principle_left_the_first_failure_is_the_reason() -> None:
    later = Failure("refused", "will not")
    found = aggregate(
        [verdict("p", "ab", 0.9), verdict("p", "ba", None, BROKEN), verdict("q", "none", None, later)],
        rules(p=1.0, q=1.0),
    )
    assert (found.prob_a, found.consistency, found.failure) == (None, None, BROKEN)


def test_a_probability_of_zero_is_an_answer() -> None:
    found = aggregate([verdict("p", "ab", 0.0), verdict("p", "ba", 1.0)], rules(p=1.0))
    assert (found.prob_a, found.consistency, found.failure) == (0.0, 1.0, None)


@pytest.mark.parametrize(("prob", "kept"), [(0.5, False), (0.59, False), (0.41, False), (0.61, True), (0.39, True)])
def test_near_one_half_the_judge_abstains(prob: float, kept: bool) -> None:
    found = aggregate([verdict("p", "none", prob)], rules(p=1.0), Settling(abstain_below=0.1))
    assert (found.prob_a == prob) is kept
    assert (found.failure is None) is kept
    if not kept:
        assert found.prob_a is None
        assert found.failure is not None
        assert found.failure.kind == "abstained"


def test_without_a_margin_one_half_is_a_label() -> None:
    assert aggregate([verdict("p", "none", 0.5)], rules(p=1.0)).prob_a == 0.5


@pytest.mark.parametrize("principles", [rules(p=0.0), []])
def test_no_weight_is_a_failure_and_not_a_tie(principles: list[Principle]) -> None:
    found = aggregate([verdict("p", "none", 0.9)], principles)
    assert found.prob_a is None
    assert found.failure is not None


# --- tiers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "third", "label"),
    [
        (0.9, 0.0, 0.0, 0.9),  # the first tier is clear
        (0.6, 0.2, 0.9, 0.2),  # at the margin it is not: the second speaks
        (0.55, 0.45, 0.8, 0.8),  # neither is
        (0.55, 0.45, 0.52, 0.52),  # the last one always speaks
    ],
)
def test_a_lower_tier_speaks_only_where_those_above_are_within_the_margin(
    first: float, second: float, third: float, label: float
) -> None:
    verdicts = [verdict("z", "none", third), verdict("x", "none", first), verdict("y", "none", second)]
    order = tiers(y=5, z=7, x=2)
    assert aggregate(verdicts, order, Settling(tier_margin=0.1)).prob_a == pytest.approx(label)
    assert aggregate(verdicts, order).prob_a == pytest.approx((first + second + third) / 3)


def test_within_a_tier_principles_count_by_weight() -> None:
    verdicts = [verdict("p", "none", 0.2), verdict("q", "none", 0.8)]
    assert aggregate(verdicts, rules(p=1.0, q=3.0), Settling(tier_margin=0.0)).prob_a == pytest.approx(0.65)


def test_a_tier_is_skipped_where_none_of_it_applies_but_not_where_its_verdicts_failed() -> None:
    order = tiers(x=1, y=2)
    assert aggregate([verdict("y", "none", 0.8)], order, Settling(tier_margin=0.1)).prob_a == 0.8
    failed = aggregate(
        [verdict("x", "none", None, BROKEN), verdict("y", "none", 0.8)], order, Settling(tier_margin=0.1)
    )
    assert (failed.prob_a, failed.failure) == (None, BROKEN)
    unneeded = aggregate(
        [verdict("x", "none", 0.9), verdict("y", "none", None, BROKEN)], order, Settling(tier_margin=0.1)
    )
    assert (unneeded.prob_a, unneeded.failure) == (0.9, None)


def test_a_principle_without_weight_makes_no_tier() -> None:
    silent = [Principle("x", "Be x.", weight=0.0), *tiers(y=2)]
    assert (
        aggregate([verdict("x", "none", 0.9), verdict("y", "none", 0.3)], silent, Settling(tier_margin=0.1)).prob_a
        == 0.3
    )
