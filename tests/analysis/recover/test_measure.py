"""Accuracies and likenesses on numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlaif.analysis.recover.evidence import Evidence
from rlaif.analysis.recover.measure import Match, Nearest, accuracy, agreement, by_length, matches, share
from rlaif.core.records import Principle
from rlaif.inputs.comparisons import GivenPair
from tests.analysis.recover.cases import comparisons

PAIRS = [GivenPair(pair, 0.9 if n % 2 == 0 else 0.2, n) for n, pair in enumerate(comparisons(3, 2))]
"""Three prompts of two pairs; the labels prefer A and B in turn."""


def test_accuracy_is_the_mean_over_prompts_of_pairs_that_prefer_the_same_answer() -> None:
    predicted = [0.6, 0.4, 0.6, 0.6, 0.5, None]  # both right; one of two; a tie, and one not known
    assert share(predicted, PAIRS) == pytest.approx((1.0 + 0.5 + 0.5) / 3)
    found = accuracy(predicted, PAIRS, seed=0, resamples=100)
    assert found is not None
    assert found.mean == pytest.approx(2 / 3)
    assert (found.n, found.prompts) == (5, 3)
    assert accuracy([None] * 6, PAIRS, seed=0, resamples=100) is None


def test_an_interval_has_a_width_where_all_prompts_are_alike() -> None:
    found = accuracy([0.6, 0.4] * 3, PAIRS, seed=0, resamples=100)
    assert found is not None
    assert found.low == pytest.approx(3 / (3 + 1.959964**2))  # Wilson for 3 of 3
    assert found.high == pytest.approx(1.0)


def test_agreement_counts_ties_half_and_leaves_silence_out() -> None:
    one, other = np.array([0.9, 0.1, 0.8, np.nan, 0.7]), np.array([0.6, 0.7, 0.5, 0.2, np.nan])
    assert agreement(one, other) == pytest.approx((1 + 0 + 0.5) / 3)
    assert agreement(one, np.full(5, np.nan)) is None


def test_length_says_which_answer_is_the_shorter() -> None:
    pair = PAIRS[0].comparison
    texts = [("ab", "abc"), ("abc", "ab"), ("ab", "cd")]
    pairs = [
        GivenPair(replace(pair, a=replace(pair.a, text=a), b=replace(pair.b, text=b)), 0.9, n)
        for n, (a, b) in enumerate(texts)
    ]
    assert by_length(pairs, shorter=True) == [1.0, 0.0, 0.5]
    assert by_length(pairs, shorter=False) == [0.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("wording", "agrees", "behaviour", "near"),
    [
        (0.5, 0.5, 0.5, True), (0.5, None, None, True), (0.1, 0.2, 0.9, True), (0.49, 0.8, 0.89, False),
        (0.1, None, None, False), (0.9, 0.49, 0.6, False), (0.9, 0.1, 0.9, True),
    ],
)  # fmt: skip
def test_likeness_in_wording_or_behaviour_is_enough_but_an_opposite_is_not_alike(
    wording: float, agrees: float | None, behaviour: float | None, near: bool
) -> None:
    said = None if behaviour is None else Nearest("y", behaviour)
    assert Match("x", Nearest("y", wording), said, agrees).near is near


def test_a_rule_in_the_words_of_its_opposite_does_not_cover_it() -> None:
    kind, rude = (
        Principle(word, f"Be as {word} as you can to everybody who asks you for help with anything at all.")
        for word in ("kind", "rude")
    )
    pairs = tuple(PAIRS)
    probs = np.array([[0.9, 0.8, 0.2, 0.6, 0.7, 0.1]])
    one, other = (Evidence(pairs, (p,), {p.id: []}, row) for p, row in ((kind, probs), (rude, 1 - probs)))
    (match,) = matches(one, other)
    assert match.wording is not None
    assert match.wording.likeness > 0.5
    assert match.same_wording_agrees == 0.0
    assert not match.near
    (itself,) = matches(one, one)
    assert itself.near
