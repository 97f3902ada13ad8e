"""The figures of held-out pairs, worked by hand."""

from __future__ import annotations

import math

import pytest

from rlaif.training.preference_metrics import agreement, held_out_report, label_entropy


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
