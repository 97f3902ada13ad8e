"""The figures of held-out pairs, worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rlaif.core.evaluation import HeldOutAccuracy
from rlaif.training.preference_metrics import agreement, held_out_report, held_out_verdict, label_entropy


def test_agreement_counts_sides_and_halves_of_ties() -> None:
    assert agreement([1.0, -1.0, 2.0], [0.9, 0.1, 0.2]) == pytest.approx(2 / 3)
    assert agreement([0.0, 1.0], [0.9, 0.9]) == 0.75
    assert agreement([5.0, 1.0], [0.5, 0.9]) == 1.0
    assert agreement([5.0], [0.5]) is None


def test_report_worked_by_hand() -> None:
    log3 = math.log(3)  # sigmoid(log 3) = 0.75
    report = held_out_report([log3, log3, -log3], [1.0, 0.5, 0.25], [10, 20, 30], [20, 20, 20])
    assert report.accuracy == 1.0  # the label of 0.5 has no side
    assert report.brier == pytest.approx((0.0625 + 0.0625 + 0) / 3)
    assert report.log_loss == pytest.approx((0.287682 + 0.836988 + 0.562335) / 3, abs=1e-6)
    assert report.label_entropy == pytest.approx((0 + 0.693147 + 0.562335) / 3, abs=1e-6)
    assert report.ece == pytest.approx(0.0)  # both pairs predicted at 0.75 are labelled 0.75 on average
    assert [(row.low, row.n) for row in report.bins] == [(0.2, 1), (0.7, 2)]
    assert report.length_accuracy == 1.0  # A is shorter and wins; B is shorter and wins
    assert held_out_report([log3], [0.25], [1], [2]).ece == pytest.approx(0.5)
    assert (held_out_report([800.0], [0.0], [1], [1]).log_loss or 0) > 700
    assert label_entropy([0.0, 1.0]) == 0.0


def test_the_verdict_compares_the_model_with_the_best_trivial_predictor() -> None:
    length = HeldOutAccuracy("length", 0.46, 0.4, 0.52, 96)
    bag = HeldOutAccuracy("bag of words", 0.79, 0.72, 0.85, 96, 0.05, 0.01, 0.09)
    silent = HeldOutAccuracy("finished", None, None, None, 0)
    model = HeldOutAccuracy("reward model", 0.84, 0.78, 0.89, 96)
    assert held_out_verdict(model, [length, silent, bag], 16) == (
        True,
        "The reward model is right on 84% [78%, 89%] of 96 held-out labels; the best trivial predictor (bag of words) "
        "on 79% [72%, 85%]: +5 points [+1, +9], so it has learnt more than that.",
    )
    unsure, told = replace(bag, lead_low=-0.02), "+5 points [-2, +9], which may be chance."
    beats, said = held_out_verdict(model, [length, silent, unsure], 16)
    assert beats is False
    assert said.endswith(told)
    few = replace(bag, lead=None, lead_low=None, lead_high=None)
    for given, prompts in ((few, 16), (bag, 9)):
        beats, said = held_out_verdict(model, [given], prompts)
        assert beats is False
        assert said.endswith(f": {prompts} prompts are too few to say whether that is chance.")
    for accuracy in (0.7, 0.79):  # as good is not better
        beats, said = held_out_verdict(replace(model, accuracy=accuracy), [length, silent, bag], 16)
        assert beats is False
        assert said.endswith(
            "bag of words alone on 79% [72%, 85%]: it does not beat that, and may have learnt nothing else."
        )
    beats, said = held_out_verdict(replace(model, accuracy=None, low=None, high=None), [silent], 0)
    assert (beats, said) == (None, "No held-out label has a side, so the reward model was not measured.")
