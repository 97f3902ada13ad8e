"""Where labels are put beside a plot, and what a plot says to those who do not see it."""

from __future__ import annotations

import pytest

from rlaif.view.plots import Place, _spread, over_distance


def test_labels_stay_in_order_apart_and_inside() -> None:
    assert _spread([0.9, 0.5], [0.1, 0.1]) == pytest.approx([0.9, 0.5]), "nothing in the way"
    assert _spread([0.5, 0.5, 0.45], [0.05, 0.1, 0.05]) == pytest.approx([0.5, 0.35, 0.2])
    assert _spread([1.2, 0.9], [0.1, 0.1]) == pytest.approx([0.9, 0.7]), "below the top"
    assert _spread([0.1, 0.0], [0.1, 0.1]) == pytest.approx([0.3, 0.1]), "above the bottom"


def test_places_are_told_in_words_and_none_measured_is_no_plot() -> None:
    far = Place("PPO <b>", 8.6, 0.74, 0.66, 0.81, 2)
    near = Place("coin", 0.4, 0.25, None, None)
    gone = Place("gone", 1.0, None, None, None, 0)
    drawn = over_distance("x", "everyday prompts", [far, near, gone], "KL", "sentiment")
    assert drawn is not None
    assert (
        "<title>everyday prompts. sentiment over KL: PPO &lt;b&gt; 0.74 [0.66, 0.81] at 8.60; "
        "control coin 0.25 [not measured] at 0.400.</title>"
    ) in drawn
    assert "gone" not in drawn
    assert over_distance("x", "t", [gone], "KL", "sentiment") is None
