"""Hand-worked means and differences, and the coverage of the intervals on simulated data."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif.core.statistics import by_prompt, intercept, mean, paired_difference, sigmoid, slope, win_rate


def test_values_are_averaged_per_prompt_first() -> None:
    values = [("p", 1.0), ("p", 3.0), ("p", None), ("q", 8.0), ("r", None)]
    assert by_prompt(values) == {"p": 2.0, "q": 8.0}
    found = mean(values, seed=1, resamples=200)
    assert found is not None
    assert (found.mean, found.n, found.prompts) == (5.0, 3, 2)


def test_nothing_measured_and_a_single_prompt_have_no_interval() -> None:
    assert mean([("p", None)], seed=1, resamples=200) is None
    alone = mean([("p", 0.0), ("p", 1.0)], seed=1, resamples=200)
    assert alone is not None
    assert (alone.mean, alone.low, alone.high) == (0.5, None, None)


def test_equal_prompts_give_an_interval_without_width() -> None:
    found = mean([("p", 0.0), ("q", 0.0), ("r", 0.0)], seed=1, resamples=200)
    assert found is not None
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_seed_decides_the_interval() -> None:
    values = [(str(n), float(n * n)) for n in range(20)]
    one, again, other = (mean(values, seed=seed, resamples=300) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_a_constant_shift_is_found_without_doubt_however_different_the_prompts() -> None:
    base = [(str(n), 100.0 * n) for n in range(10)]
    better = [(key, value - 1.0) for key, value in base] + [("only here", 5.0)]
    found = paired_difference(better, base, seed=1, resamples=200)
    assert found is not None
    assert (found.mean, found.low, found.high, found.n) == (-1.0, -1.0, -1.0, 10)


def test_a_slope_by_hand_and_its_interval_over_prompts() -> None:
    # (1 * 0.1 + 2 * 0.4) / (1 + 4); the third prompt has no x and bears on no line
    points = [("p", 1.0, 0.1), ("q", -2.0, -0.4), ("r", 0.0, 5.0)]
    found = slope(points, seed=1, resamples=200)
    assert found is not None
    assert (found.mean, found.n, found.prompts) == (pytest.approx(0.18), 2, 2)
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.2))
    alone = slope(points[1:], seed=1, resamples=200)
    assert alone is not None
    assert (alone.mean, alone.low, alone.high) == (pytest.approx(0.2), None, None)
    assert slope(points[2:], seed=1, resamples=200) is None
    exact = slope([(str(n), float(n), 2.0 * n) for n in range(9)], seed=1, resamples=200)
    assert exact is not None
    assert (exact.low, exact.high) == (pytest.approx(2.0), pytest.approx(2.0))


def test_what_is_linear_in_x_leaves_nothing_at_zero() -> None:
    found = intercept([(str(n), float(n), 0.2 * n) for n in range(1, 9)], seed=1, resamples=200)
    assert found is not None
    assert (found.mean, found.low, found.high) == (pytest.approx(0), pytest.approx(0), pytest.approx(0))
    assert (found.n, found.prompts) == (8, 8)


def test_an_intercept_by_hand() -> None:
    """The line through (0, 1), (1, 3), (2, 2), (3, 4): means 1.5 and 2.5, slope 4 / 5, so 2.5 - 0.8 * 1.5 = 1.3."""
    found = intercept([("p", 0.0, 1.0), ("q", 1.0, 3.0), ("r", 2.0, 2.0), ("s", 3.0, 4.0)], seed=1, resamples=200)
    assert found is not None
    assert found.mean == pytest.approx(1.3)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1.3 < found.high


def test_an_intercept_where_x_hardly_or_never_differs() -> None:
    level = intercept([(str(n), 0.0, float(n)) for n in range(3)], seed=1, resamples=200)
    assert level is not None
    assert level.mean == 1.0, "without any x the mean"
    assert intercept([(str(n), 2.0, float(n)) for n in range(3)], seed=1, resamples=200) is None, "0 was never near"
    assert intercept([("p", 0.0, 1.0), ("q", 1.0, 3.0)], seed=1, resamples=200) is None, "two always lie on a line"
    # most resamples lack the one prompt with another x: they take the slope of all
    lone = intercept([("p", 1.0, 2.5), *((str(n), 0.0, 0.5) for n in range(4))], seed=1, resamples=200)
    assert lone is not None
    assert (lone.mean, lone.low, lone.high) == (pytest.approx(0.5), pytest.approx(0.5), pytest.approx(0.5))
    same = intercept([(str(n), 0.0, 0.25) for n in range(4)], seed=1, resamples=200)
    assert same is not None
    assert (same.mean, same.low, same.high) == (0.25, 0.25, 0.25)


def test_the_interval_of_an_intercept_covers_it() -> None:
    draw = np.random.default_rng(6)
    covered = 0
    for trial in range(60):
        x = draw.normal(0.5, 1.0, size=40)
        y = 0.3 + 0.7 * x + draw.normal(size=40)
        points = [(str(n), float(x[n]), float(y[n])) for n in range(40)]
        found = intercept(points, seed=trial, resamples=200)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    assert covered >= 50


def test_the_interval_of_a_slope_covers_it() -> None:
    draw = np.random.default_rng(5)
    covered = 0
    for trial in range(60):
        x = draw.normal(size=40)
        y = 0.3 * x + draw.normal(size=40)
        points = [(str(n // 2), float(x[n]), float(y[n])) for n in range(40)]
        found = slope(points, seed=trial, resamples=200)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    assert covered >= 50  # about 55 of 60 with so few prompts


def test_difference_needs_a_common_prompt() -> None:
    assert paired_difference([("p", 1.0)], [("q", 1.0)], seed=1, resamples=200) is None


def test_more_answers_per_prompt_do_not_narrow_the_interval() -> None:
    values = [(str(n), float(n % 2)) for n in range(20)]
    once = mean(values, seed=3, resamples=500)
    ten_times = mean(values * 10, seed=3, resamples=500)
    assert once is not None
    assert ten_times is not None
    assert (once.low, once.high) == (ten_times.low, ten_times.high)
    assert ten_times.n == 200


def test_win_rate_counts_settled_preferences_and_the_unscored_apart() -> None:
    found = win_rate("ppo", "sft", "harmful", [("p", 0.6), ("p", 0.5), ("q", 0.25), ("q", None)], seed=1, resamples=200)
    assert found.rate == pytest.approx((0.75 + 0.0) / 2)
    assert (found.scored, found.unscored) == (3, 1)
    assert found.low is not None
    assert 0.0 <= found.low <= 0.375


def test_win_rate_of_nothing_is_none_not_a_tie() -> None:
    found = win_rate("ppo", "sft", "harmful", [("p", None), ("q", None)], seed=1, resamples=200)
    assert (found.rate, found.low, found.high, found.scored, found.unscored) == (None, None, None, 0, 2)


def test_interval_covers_the_truth_about_95_times_of_100() -> None:
    rng = np.random.default_rng(7)
    simulations, prompts, answers, covered = 200, 40, 3, 0
    for _ in range(simulations):
        levels = rng.exponential(1.0, prompts)  # skewed between prompts, true mean 1
        values = [(str(p), float(levels[p] + rng.normal(0.0, 0.3))) for p in range(prompts) for _ in range(answers)]
        found = mean(values, seed=int(rng.integers(1 << 30)), resamples=300)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 1.0 <= found.high
    assert 0.90 <= covered / simulations <= 0.99


@pytest.mark.parametrize("x", [-1000.0, -3.0, 0.0, 3.0, 1000.0])
def test_sigmoid_neither_overflows_nor_loses_symmetry(x: float) -> None:
    assert sigmoid(x) + sigmoid(-x) == pytest.approx(1.0)
    assert 0 <= sigmoid(x) <= 1
