"""Which validation is the best: direction, ties, pairing, patience."""

from __future__ import annotations

import math

import pytest

from rlaif.gold.scorers import SCORERS, direction
from rlaif.training.ppo.peak import Gain, Peak, Validated


def taken(peak: Peak, *values: float) -> list[Gain]:
    """Validations of one prompt pair each, with these means."""
    return [peak.take(Validated(step, {"a": value - 1, "b": value + 1})) for step, value in enumerate(values)]


@pytest.mark.parametrize(("by", "best"), [("score", 2), ("sentiment", 2), ("harm", 4), ("toxicity", 4)])
def test_the_direction_is_that_of_the_measure(by: str, best: int) -> None:
    peak = Peak(by, direction(by, list(SCORERS)))
    taken(peak, 0.5, 0.6, 0.9, 0.7, 0.1, 0.3)
    assert peak.best is not None
    assert peak.best.step == best
    assert peak.since == 5 - best


def test_an_equal_one_is_no_new_best() -> None:
    peak = Peak("score")
    assert [gain.best for gain in taken(peak, 1.0, 1.0, 1.5, 1.5)] == [True, False, True, False]
    assert peak.since == 1


def test_the_gain_is_paired_by_prompt_and_against_the_best() -> None:
    """Differences 1, 2, 3 by hand: mean 2, deviation 1, t(2) = 4.3027: 2 +- 4.3027 / sqrt 3."""
    peak = Peak("harm", "lower")
    assert peak.take(Validated(0, {"a": 5.0, "b": 50.0, "c": 500.0})) == Gain(True)
    assert not peak.take(Validated(1, {"a": 9.0, "b": 90.0, "c": 900.0})).best
    gain = peak.take(Validated(2, {"c": 497.0, "a": 4.0, "b": 48.0}))
    assert (gain.best, gain.mean) == (True, 2.0)
    half = 4.302653 / math.sqrt(3)
    assert (gain.low, gain.high) == pytest.approx((2 - half, 2 + half), abs=1e-5)


def test_prompts_that_only_one_of_them_measured_are_left_out() -> None:
    peak = Peak("score")
    peak.take(Validated(0, {"a": 1.0, "b": 100.0}))
    gain = peak.take(Validated(1, {"a": 2.0}))
    assert gain == Gain(True, 1.0, None, None)
    assert not peak.take(Validated(2, {"b": 7.0})).best


def test_what_was_not_measured_is_never_the_best() -> None:
    peak = Peak("harm", "lower")
    assert peak.take(Validated(0, {})) == Gain(False)
    assert peak.best is None
    peak.take(Validated(1, {"a": 0.5}))
    peak.take(Validated(2, {}))
    assert peak.best is not None
    assert (peak.best.step, peak.since) == (1, 1)
